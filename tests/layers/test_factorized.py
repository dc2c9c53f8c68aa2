import itertools

import pytest
import torch
from torch import Tensor, nn

from mobilellm.compression.algorithms.kronecker import nearest_kronecker, rearrange, truncated_svd
from mobilellm.layers import DENSE
from mobilellm.layers.factorized import FactorizedEmbedding, FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear, PartShape, low_rank_shape
from mobilellm.layers.masked import MaskedEmbedding, MaskedLinear, MaskedShape

# left (m1, n1), right (m2, n2), terms: primes, ones, both orders of multiplication.
SHAPES = [
    ((3, 2), (5, 7), 1), ((7, 11), (2, 3), 2), ((1, 1), (4, 3), 1), ((4, 3), (1, 1), 1),
    ((5, 1), (1, 7), 3), ((1, 5), (7, 1), 2), ((6, 4), (2, 1), 1), ((6, 4), (1, 2), 2),
    ((2, 12), (9, 2), 2), ((2, 8), (3, 1), 1), ((1, 6), (4, 3), 4), ((4, 1), (3, 5), 4),
]  # fmt: skip
SIZES = [(), (3,), (0,), (2, 3), (2, 0, 3)]


def draw(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """The definition, term by term."""
    return torch.stack([torch.kron(a, b) for a, b in zip(left, right, strict=True)]).sum(0)


def make_layer(left, right, terms, *, bias=False) -> KroneckerLinear:
    rows = left[0] * right[0]
    return KroneckerLinear(
        draw(terms, *left), draw(terms, *right, seed=1), draw(rows, seed=2) if bias else None
    )


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


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("right_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_both_orders_are_the_product(left, right, terms, size, right_first, bias):
    layer = make_layer(left, right, terms, bias=bias)
    layer._right_first = right_first
    x = draw(*size, layer.in_features, seed=3).requires_grad_()
    weight = sum_of_products(layer.left, layer.right)
    wanted = nn.functional.linear(x, weight, layer.bias)
    given = layer(x)
    torch.testing.assert_close(layer.materialize(), weight)
    torch.testing.assert_close(given, wanted)
    inputs = [x, *layer.parameters()]
    slope = draw(*wanted.shape, seed=4)
    torch.testing.assert_close(
        torch.autograd.grad(given, inputs, slope), torch.autograd.grad(wanted, inputs, slope)
    )


def test_the_cheaper_order_is_taken():
    assert make_layer((12, 2), (2, 9), 1)._right_first
    assert not make_layer((2, 12), (9, 2), 1)._right_first


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
def test_rows_are_those_of_the_product(left, right, terms):
    layer = make_layer(left, right, terms)
    indices = torch.randint(layer.out_features, (4, 3))
    torch.testing.assert_close(layer.rows(indices), layer.materialize()[indices])
    assert layer.rows(indices[:0]).shape == (0, 3, layer.in_features)


def factorized(kind, orders: tuple[bool, bool], **arguments):
    """12 x 20 of three unlike parts."""
    shapes = [((4, 5), (3, 4), 2), ((12, 1), (1, 20), 3), ((2, 20), (6, 1), 1)]
    parts = [make_layer(*shape) for shape in shapes]
    stored = [torch.randperm(n) if on else None for n, on in zip((12, 20), orders, strict=True)]
    return kind(parts, row_order=stored[0], column_order=stored[1], **arguments)


ORDERS = list(itertools.product([False, True], repeat=2))


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_sum_of_parts_is_its_dense_weight(orders, size):
    layer = factorized(FactorizedLinear, orders, bias=draw(12))
    x = draw(*size, 20)
    wanted = nn.functional.linear(x, layer.materialize(), layer.bias)
    torch.testing.assert_close(layer(x), wanted)
    total = sum(part.materialize() for part in layer.parts)
    if orders[0]:
        total = total[layer.row_order]
    dense = layer.materialize()
    if orders[1]:
        dense = dense[:, layer.column_order]
    torch.testing.assert_close(dense, total)


@pytest.mark.parametrize("orders", ORDERS)
def test_a_factorised_table_serves_both_ends(orders):
    table = factorized(FactorizedEmbedding, orders)
    ids, hidden = torch.randint(12, (2, 7)), draw(2, 7, 20)
    torch.testing.assert_close(table(ids), table.materialize()[ids])
    torch.testing.assert_close(table.unembed(hidden), hidden @ table.materialize().T)
    assert table(ids[:0]).shape == (0, 7, 20)


def test_a_kronecker_table():
    table = FactorizedEmbedding([KroneckerLinear(draw(2, 6, 5), draw(2, 2, 3, seed=1))])
    dense = sum_of_products(draw(2, 6, 5), draw(2, 2, 3, seed=1))
    torch.testing.assert_close(table(torch.arange(12)), dense)
    torch.testing.assert_close(table.unembed(draw(4, 15)), draw(4, 15) @ dense.T)


@pytest.mark.parametrize("orders", ORDERS)
def test_a_layer_of_a_shape_has_that_shape(orders):
    layer = factorized(FactorizedLinear, orders)
    shape = layer.shape
    assert (shape.row_permutation, shape.column_permutation) == orders
    empty = FactorizedLinear.empty(shape, bias=True)
    assert empty.shape == shape
    assert sum(p.numel() for p in layer.parameters()) == shape.parameters
    empty.load_state_dict(layer.state_dict() | {"bias": torch.zeros(12)})
    torch.testing.assert_close(empty.materialize(), layer.materialize().float())
    empty.reset_buffers_()
    for order in (empty.row_order, empty.column_order):
        assert order is None or order.equal(torch.arange(len(order), dtype=torch.int32))


def test_masked_weights_are_zero_and_stay_so():
    mask = torch.rand(6, 4) > 0.5
    layer = MaskedLinear(torch.randn(6, 4), mask, torch.randn(6))
    assert layer.shape == MaskedShape(nonzero=int(mask.sum()))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    x = torch.randn(5, 4)
    for _ in range(3):
        layer(x).square().sum().backward()
        optimizer.step()
    assert not layer.materialize()[~mask].any()
    assert not layer.weight[~mask].any()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight * mask, layer.bias))
    layer.reset_buffers_()
    assert layer.shape.nonzero == 24


def test_a_masked_table_serves_both_ends():
    mask = torch.rand(6, 4) > 0.5
    table = MaskedEmbedding(torch.randn(6, 4), mask)
    ids, hidden = torch.randint(6, (2, 3)), torch.randn(2, 3, 4)
    torch.testing.assert_close(table(ids), table.materialize()[ids])
    torch.testing.assert_close(table.unembed(hidden), hidden @ table.materialize().T)


def test_a_shape_builds_its_layer():
    low_rank = FactorizedShape(parts=(low_rank_shape(6, 4, 2),))
    kinds = {DENSE: nn.Linear, low_rank: FactorizedLinear, MaskedShape(nonzero=3): MaskedLinear}
    for shape, kind in kinds.items():
        layer = shape.empty((6, 4), bias=True)
        assert type(layer) is kind
        assert layer(torch.zeros(2, 4)).shape == (2, 6)
        assert layer.bias.shape == (6,)


def test_errors_say_what_is_needed():
    with pytest.raises(ValueError, match=r"weight has shape \(6, 4\), but left_shape=\(2, 2\) and"):
        nearest_kronecker(draw(6, 4), (2, 2), (2, 2))
    for terms in (0, 5):
        with pytest.raises(ValueError, match=rf"num_terms={terms} must be between 1 and 4"):
            nearest_kronecker(draw(6, 4), (3, 2), (2, 2), terms)
    with pytest.raises(ValueError, match=r"left has shape \(3, 2\) and right \(1, 2, 2\); give"):
        KroneckerLinear(draw(3, 2), draw(1, 2, 2))
    with pytest.raises(ValueError, match=r"left has shape \(2, 3, 2\) and right \(1, 2, 2\)"):
        KroneckerLinear(draw(2, 3, 2), draw(1, 2, 2))
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); give \(6,\) or None"):
        KroneckerLinear(draw(1, 3, 2), draw(1, 2, 2), draw(4))
    with pytest.raises(ValueError, match=r"mask is torch.float64 \(6, 4\); give bool \(6, 4\)"):
        MaskedLinear(draw(6, 4), draw(6, 4))
    with pytest.raises(ValueError, match=r"the parts have the sizes 6x4, 6x5; give parts of one"):
        FactorizedLinear([make_layer((3, 2), (2, 2), 1), make_layer((6, 1), (1, 5), 1)])
    with pytest.raises(ValueError, match="needs at least one part; give parts"):
        FactorizedLinear([])


def test_orders_and_biases_of_other_sizes_are_refused():
    part = make_layer((3, 2), (2, 2), 1)
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); give \(6,\) or None"):
        FactorizedLinear([part], draw(4))
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); give \(6,\) or None"):
        MaskedLinear(draw(6, 4), draw(6, 4) > 0, draw(4))
    with pytest.raises(ValueError, match=r"row_order of shape .* must be a permutation of 0…5"):
        FactorizedLinear([part], row_order=torch.arange(4))
    with pytest.raises(ValueError, match=r"column_order of shape .* must be a permutation of 0…3"):
        FactorizedLinear([part], column_order=torch.tensor([0, 1, 1, 3]))
    with pytest.raises(ValueError, match=r"part 1 has a bias; give it to the layer"):
        FactorizedLinear([part, make_layer((3, 2), (2, 2), 1, bias=True)])
