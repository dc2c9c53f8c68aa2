"""Sums of Kronecker products by their definition, and factors of many sizes."""

import torch
from torch import Tensor

# left (m1, n1), right (m2, n2), terms: primes, ones, both orders of multiplication.
SHAPES = [
    ((3, 2), (5, 7), 1), ((7, 11), (2, 3), 2), ((1, 1), (4, 3), 1), ((4, 3), (1, 1), 1),
    ((5, 1), (1, 7), 3), ((1, 5), (7, 1), 2), ((6, 4), (2, 1), 1), ((6, 4), (1, 2), 2),
    ((2, 12), (9, 2), 2), ((2, 8), (3, 1), 1), ((1, 6), (4, 3), 4), ((4, 1), (3, 5), 4),
]  # fmt: skip


def draw(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """The definition, term by term."""
    return torch.stack([torch.kron(a, b) for a, b in zip(left, right, strict=True)]).sum(0)
