import itertools

import pytest
import torch
from torch import Tensor

from mobilellm.compression import Factorization
from mobilellm.compression.algorithms import permutation_race
from mobilellm.compression.algorithms.arrangement import Arrangement, Member, Side, batches
from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.permutation import (
    PermutationSearch,
    search_permutations,
    search_unit_permutation,
)
from mobilellm.layers.factorized import FactorizedLinear
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.part_shape import PartShape

TWO_ROWS = ((48, 192), (2, 1))


def draw(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def relative_error(weight: Tensor, part: PartShape) -> float:
    left, right = nearest_kronecker(weight, part.left, part.right, part.num_terms)
    difference = weight - KroneckerLinear(left, right).materialize().detach()
    return float(difference.norm() / weight.norm())


def lognormal_scales(seed: int) -> Tensor:
    rows, columns = draw(96, 1, seed=100 + seed).exp(), draw(1, 192, seed=200 + seed).exp()
    return draw(96, 192, seed=seed) * rows * columns


def planted(seed: int) -> Tensor:
    product = torch.kron(draw(48, 192, seed=seed), draw(2, 1, seed=100 + seed))
    noise = 0.1 * draw(96, 192, seed=200 + seed) * product.norm() / 96**0.5 / 192**0.5
    return (product + noise)[shuffled(96, seed)]


SHAPES = [
    ((4, 6), (2, 4), 2), ((3, 2), (5, 7), 1), ((2, 3), (4, 2), 3), ((7, 1), (3, 5), 1),
    ((1, 5), (6, 3), 1), ((6, 4), (1, 3), 1), ((5, 4), (3, 1), 2), ((1, 1), (4, 3), 1),
    ((12, 1), (1, 8), 2), ((13, 11), (1, 1), 1),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "terms"), SHAPES, ids=str)
@pytest.mark.parametrize("swaps", [0, 40])
def test_never_above_the_identity_and_the_error_is_what_the_product_gives(
    left, right, terms, swaps
):
    part = PartShape(left=left, right=right, num_terms=terms)
    weight = draw(*part.size, seed=3) * draw(part.size[0], 1, seed=4).exp()
    search = PermutationSearch(restarts=2, annealing_swaps=swaps)
    found = search_permutations(weight, left, right, terms, search=search)
    assert found.error <= found.identity_error
    assert found.identity_error == pytest.approx(relative_error(weight, part), abs=1e-6)
    permuted = weight[found.rows][:, found.columns]
    assert found.error == pytest.approx(relative_error(permuted, part), abs=1e-6)
    for order, size in ((found.rows, part.size[0]), (found.columns, part.size[1])):
        assert order.dtype == torch.int64
        assert order.sort().values.equal(torch.arange(size))


@pytest.mark.parametrize("seed", range(4))
def test_lognormal_scales(seed):
    found = search_permutations(lognormal_scales(seed), *TWO_ROWS)
    assert found.identity_error > 0.4
    assert found.error <= 0.30


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_product_with_a_tenth_of_noise(seed):
    found = search_permutations(planted(seed), *TWO_ROWS)
    assert found.identity_error > 0.6
    assert found.error <= 0.40


def test_several_terms_and_both_sides():
    product = torch.kron(draw(12, 12), draw(4, 4, seed=1))
    weight = product[shuffled(48, 2)][:, shuffled(48, 3)]
    found = search_permutations(weight, (12, 12), (4, 4))
    rows_only = search_permutations(weight, (12, 12), (4, 4), columns=False)
    assert rows_only.columns.equal(torch.arange(48))
    assert found.error < rows_only.error < found.identity_error


def test_the_layer_undoes_the_permutations():
    weight = torch.kron(draw(6, 5), draw(2, 3, seed=1))[shuffled(12, 0)][:, shuffled(15, 1)]
    found = search_permutations(weight, (6, 5), (2, 3))
    left, right = nearest_kronecker(weight[found.rows][:, found.columns], (6, 5), (2, 3))
    layer = FactorizedLinear(
        [KroneckerLinear(left, right)],
        row_order=found.rows.argsort(),
        column_order=found.columns,
    )
    error = (layer.materialize().detach() - weight).norm() / weight.norm()
    assert float(error) == pytest.approx(found.error, abs=1e-9)


@pytest.mark.parametrize(
    ("left", "right", "rows", "columns"),
    [
        ((6, 8), (2, 1), True, False),
        ((6, 8), (1, 2), False, True),
        ((1, 8), (6, 2), False, True),
        ((6, 1), (2, 8), True, False),
        ((6, 1), (1, 8), False, False),
    ],
)
def test_a_side_without_effect_is_left_alone(left, right, rows, columns):
    weight = draw(left[0] * right[0], left[1] * right[1])
    found = search_permutations(weight, left, right)
    assert found.rows.equal(torch.arange(len(found.rows))) is not rows
    assert found.columns.equal(torch.arange(len(found.columns))) is not columns


def test_every_order_of_four_rows():
    """All 24 orders: a local optimum, most often the best, is found."""
    best_found = 0
    many = PermutationSearch(restarts=30)
    part = PartShape(left=(2, 4), right=(2, 1))
    for seed in range(8):
        weight = draw(4, 4, seed=seed)
        errors = [
            relative_error(weight[list(order)], part) for order in itertools.permutations(range(4))
        ]
        found = search_permutations(weight, part.left, part.right, search=many)
        assert min(errors) - 1e-9 <= found.error <= found.identity_error
        best_found += found.error <= min(errors) + 1e-6
    assert best_found >= 7


@pytest.mark.parametrize(
    ("left", "right", "unit", "dim"),
    [((6, 3), (2, 4), 1, 0), ((2, 3), (6, 2), 1, 0), ((4, 4), (6, 3), 2, 0),
     ((6, 4), (4, 2), 3, 0), ((3, 6), (4, 2), 1, 1), ((3, 2), (2, 8), 2, 1)],
)  # fmt: skip
def test_profits_are_the_changes_of_the_gain_with_the_held_factors(left, right, unit, dim):
    """Against the definition: move two units, project on the held factors, take the norm."""
    part = PartShape(left=left, right=right, num_terms=2)
    num_units = part.size[dim] // unit
    side = Side((Member(0, dim),), num_units, unit)
    arrangement = Arrangement((part,), (side,), (draw(*part.size),), (torch.arange(num_units),))
    for places in batches(side, (part,), torch.Generator().manual_seed(0)):
        profits = arrangement.profits(0, places)
        for i, j in itertools.combinations(range(len(places)), 2):
            order = torch.arange(num_units)
            order[places[i]], order[places[j]] = places[j].clone(), places[i].clone()
            change = profits[i, j] + profits[j, i] - profits[i, i] - profits[j, j]
            moved = arrangement.reordered(0, order)
            wanted = held_gain(arrangement, moved, dim) - held_gain(arrangement, arrangement, dim)
            assert float(change) == pytest.approx(wanted, abs=1e-8)


def held_gain(fitted: Arrangement, moved: Arrangement, dim: int) -> float:
    part = fitted.parts[0]
    u, _, v = fitted.factors[0]
    (m1, n1), (m2, n2) = part.left, part.right
    blocks = moved.weights[0].reshape(m1, m2, n1, n2).permute(0, 2, 1, 3).reshape(m1 * n1, m2 * n2)
    hold_right = part.left[dim] >= part.right[dim]
    return float((blocks @ v if hold_right else blocks.T @ u).square().sum())


def test_units_of_three_weights_move_together():
    """A planted order of hidden units is one for gate, up and down, and lowers all errors."""
    order = shuffled(48, 5)
    part, down_part = PartShape(left=(24, 16), right=(2, 1)), PartShape(left=(16, 24), right=(1, 2))
    gate = torch.kron(draw(24, 16), draw(2, 1, seed=1))[order]
    up = torch.kron(draw(24, 16, seed=2), draw(2, 1, seed=3))[order]
    down = torch.kron(draw(16, 24, seed=4), draw(1, 2, seed=5))[:, order]
    found = search_unit_permutation([(gate, part), (up, part)], [(down, down_part)])
    assert found.error < 0.5 * found.identity_error
    errors = [
        relative_error(gate[found.order], part),
        relative_error(up[found.order], part),
        relative_error(down[:, found.order], down_part),
    ]
    rms = (sum(e**2 for e in errors) / 3) ** 0.5
    assert found.error == pytest.approx(rms, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("swaps", [0, 30])
def test_units_of_several_rows_stay_whole_and_in_their_group(seed, swaps):
    query, output = draw(48, 10, seed=seed), draw(10, 48, seed=seed + 50)
    parts = PartShape(left=(6, 10), right=(8, 1)), PartShape(left=(5, 12), right=(2, 4))
    search = PermutationSearch(seed=seed, annealing_swaps=swaps)
    found = search_unit_permutation(
        [(query, parts[0])], [(output, parts[1])], unit=4, groups=3, search=search
    )
    assert (found.order // 4).equal(torch.arange(12) // 4)
    features = (found.order[:, None] * 4 + torch.arange(4)).flatten()
    errors = (
        relative_error(query[features], parts[0]),
        relative_error(output[:, features], parts[1]),
    )
    assert found.error == pytest.approx((sum(e**2 for e in errors) / 2) ** 0.5, abs=1e-6)
    assert found.error < found.identity_error


def test_units_that_cannot_matter_keep_their_order():
    part = PartShape(left=(6, 10), right=(4, 1))
    found = search_unit_permutation([(draw(24, 10), part)], [], unit=4)
    assert found.order.equal(torch.arange(6))
    assert found.error == found.identity_error
    alone = search_unit_permutation([(draw(24, 10), part)], [], groups=24)
    assert alone.order.equal(torch.arange(24))


def test_one_seed_gives_one_result():
    weight = draw(24, 18)
    search = PermutationSearch(seed=3, annealing_swaps=100)
    first, second = (search_permutations(weight, (8, 6), (3, 3), search=search) for _ in range(2))
    assert first.rows.equal(second.rows)
    assert first.columns.equal(second.columns)
    other = search_permutations(
        weight, (8, 6), (3, 3), search=PermutationSearch(seed=4, annealing_swaps=100)
    )
    assert not first.rows.equal(other.rows)


def test_annealing_leaves_a_local_optimum():
    """Without sweeps to speak of, exchanges alone must bring the error down."""
    weight = lognormal_scales(7)
    few = PermutationSearch(restarts=0, max_sweeps=1)
    plain = search_permutations(weight, (24, 48), (4, 4), search=few)
    annealed = search_permutations(
        weight, (24, 48), (4, 4),
        search=PermutationSearch(restarts=0, max_sweeps=1, annealing_swaps=2000),
    )  # fmt: skip
    assert annealed.error < plain.error


def test_the_time_limit_is_kept(monkeypatch):
    """On a clock that advances by a second whenever it is read, the search reads it 20 times."""
    readings = itertools.count()
    monkeypatch.setattr(permutation_race.time, "monotonic", lambda: float(next(readings)))
    search = PermutationSearch(restarts=1000, annealing_swaps=10**6, max_seconds=20)
    found = search_permutations(draw(48, 32), (12, 8), (4, 4), search=search)
    assert 20 <= next(readings) < 30
    assert found.error <= found.identity_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_of_zeros_and_other_types(dtype):
    found = search_permutations(torch.zeros(6, 4, dtype=dtype), (3, 2), (2, 2))
    assert found.error == found.identity_error == 0
    exact = torch.kron(draw(3, 4), draw(2, 2, seed=1)).to(dtype)
    assert search_permutations(exact, (3, 4), (2, 2)).error < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restarts": -1}, r"restarts=-1 must be a whole number of at least 0"),
        ({"annealing_swaps": 0.5}, r"annealing_swaps=0.5 must be a whole number of at least 0"),
        ({"max_sweeps": 0}, r"max_sweeps=0 must be a whole number of at least 1"),
        ({"seed": True}, r"seed=True must be a whole number of at least 0"),
        ({"max_seconds": 0}, r"max_seconds=0 must be above 0; null for no limit"),
    ],
)
def test_a_search_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        PermutationSearch(**changes)


def test_weights_are_checked():
    with pytest.raises(ValueError, match=r"weight has shape \(6, 4\), but left_shape=\(2, 2\)"):
        search_permutations(draw(6, 4), (2, 2), (2, 2))
    with pytest.raises(ValueError, match=r"num_terms=5 must be between 1 and 4"):
        search_permutations(draw(6, 4), (3, 2), (2, 2), 5)
    with pytest.raises(ValueError, match=r"shape \(6, 4\) has entries that are not finite"):
        search_permutations(draw(6, 4) / 0, (3, 2), (2, 2))


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ([], {}, r"no weights; give row_weights, column_weights or both"),
        ([6, 8], {}, r"the weights have 6, 8 rows or columns for the units"),
        ([6], {"unit": 4}, r"6 rows or columns must be divisible by unit=4 x groups=1"),
        ([6], {"groups": 0}, r"groups=0 must be a whole number of at least 1"),
    ],
)
def test_units_are_checked(sizes, changes, message):
    weights = [(draw(n, 4), PartShape(left=(n // 2, 2), right=(2, 2))) for n in sizes]
    with pytest.raises(ValueError, match=message):
        search_unit_permutation(weights, [], **changes)


def test_limits_of_a_search_that_does_not_run_are_refused():
    with pytest.raises(ValueError, match="permutation_search has no effect with permutations=none"):
        Factorization(permutation_search={"max_seconds": 2})
    with pytest.raises(TypeError, match=r"permutation_search=0 must be settings"):
        Factorization(parts=[{"right": [2, 2]}], permutations="stored", permutation_search=0)
