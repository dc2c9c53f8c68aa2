"""The nearest sum of Kronecker products, and the truncated decomposition that finds it."""

import pytest
import torch
from naive_kronecker import SHAPES, draw, sum_of_products

from mobilellm.compression.algorithms.kronecker import nearest_kronecker, rearrange, truncated_svd
from mobilellm.layers.part_shape import PartShape


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
def test_a_factorable_weight_is_recovered(left, right, terms):
    weight = sum_of_products(draw(terms, *left), draw(terms, *right, seed=1))
    found = nearest_kronecker(weight, left, right, terms)
    assert found[0].shape == (terms, *left)
    assert found[1].shape == (terms, *right)
    torch.testing.assert_close(sum_of_products(*found), weight, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
def test_all_terms_represent_every_weight(left, right, terms):
    part = PartShape(left=left, right=right)
    weight = draw(*part.size)
    found = nearest_kronecker(weight, left, right, part.max_terms)
    torch.testing.assert_close(sum_of_products(*found), weight, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
def test_the_error_is_that_of_the_discarded_singular_values(left, right, terms):
    weight = draw(left[0] * right[0], left[1] * right[1])
    found = nearest_kronecker(weight, left, right, terms)
    discarded = torch.linalg.svdvals(rearrange(weight, left, right))[terms:]
    error = (sum_of_products(*found) - weight).square().sum()
    torch.testing.assert_close(error, discarded.square().sum(), atol=1e-10, rtol=1e-10)
    norms = [f.flatten(1).norm(dim=1) for f in found]
    torch.testing.assert_close(*norms)  # the two factors of a term share its singular value


def test_the_rearranged_product_is_an_outer_product():
    left, right = draw(3, 5), draw(2, 4, seed=1)
    outer = torch.outer(left.flatten(), right.flatten())
    assert rearrange(torch.kron(left, right), (3, 5), (2, 4)).equal(outer)


@pytest.mark.parametrize("size", [(600, 520), (520, 600), (544, 544)])
@pytest.mark.parametrize("power", [0.5, 0.02])
def test_a_few_terms_of_a_large_matrix_are_the_nearest_ones(size, power):
    """By a known spectrum, falling as weights have it and nearly flat: the least error there is."""
    rank, small = 20, min(size)
    u, v = (torch.linalg.qr(draw(n, small, seed=n + i).double()).Q for i, n in enumerate(size))
    values = torch.arange(1, small + 1, dtype=torch.float64) ** -power
    matrix = ((u * values) @ v.T).float()
    found = truncated_svd(matrix, rank)
    error = (matrix.double() - (found[0].double() * found[1]) @ found[2].double().T).square().sum()
    assert float(error / values[rank:].square().sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(found[1].double(), values[:rank], atol=1e-6, rtol=1e-6)
    for vectors in (found[0], found[2]):
        identity = torch.eye(rank).to(vectors)
        torch.testing.assert_close(vectors.T @ vectors, identity, atol=1e-5, rtol=0)
    again = truncated_svd(matrix, rank)
    assert all(a.equal(b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("size", [(40, 5), (5, 40), (40, 1), (1, 1), (7, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_decomposition_has_the_singular_values(size, dtype):
    matrix = draw(*size).to(dtype)
    rank = min(size)
    u, s, v = truncated_svd(matrix, rank)
    torch.testing.assert_close(s.double(), torch.linalg.svdvals(matrix.double()),
                               atol=1e-5, rtol=1e-5)  # fmt: skip
    torch.testing.assert_close(((u * s) @ v.mT).double(), matrix.double(), atol=1e-5, rtol=1e-5)


def test_zeros_and_low_types_are_factored():
    left, right = nearest_kronecker(torch.zeros(6, 40), (3, 20), (2, 2), 4)
    assert not sum_of_products(left, right).any()
    half = nearest_kronecker(draw(6, 4).bfloat16(), (3, 2), (2, 2), 4)
    assert {f.dtype for f in half} == {torch.bfloat16}


def test_the_nearest_product_is_nearer_than_those_around_it():
    weight = draw(6, 8)
    left, right = nearest_kronecker(weight, (3, 2), (2, 4), 2)
    best = (sum_of_products(left, right) - weight).norm()
    for seed in range(20):
        moved = left + 0.05 * draw(2, 3, 2, seed=seed), right + 0.05 * draw(2, 2, 4, seed=seed + 50)
        assert (sum_of_products(*moved) - weight).norm() > best


def test_sizes_and_numbers_of_terms_are_checked():
    with pytest.raises(ValueError, match=r"weight has shape \(6, 4\), but left_shape=\(2, 2\) and"):
        nearest_kronecker(draw(6, 4), (2, 2), (2, 2))
    for terms in (0, 5):
        with pytest.raises(ValueError, match=rf"num_terms={terms} must be between 1 and 4"):
            nearest_kronecker(draw(6, 4), (3, 2), (2, 2), terms)
