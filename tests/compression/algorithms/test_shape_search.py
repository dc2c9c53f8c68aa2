"""The search over shapes is never worse than low rank, and better where Kronecker is planted."""

import pytest
import torch

from mobilellm.compression.algorithms.low_rank import nearest_low_rank
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.shape_search import ShapeSearch, search_shape
from mobilellm.compression.algorithms.sums import dense
from mobilellm.layers.part_shape import rank_for


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank_error(weight, parameters, metric):
    rank = rank_for(parameters, *weight.shape)
    return metric.relative_error(weight, dense(nearest_low_rank(weight, rank, metric)))


WEIGHTS = {
    "iid": lambda seed: random(24, 32, seed=seed),
    "low rank": lambda seed: (
        random(24, 3, seed=seed) @ random(3, 32, seed=seed + 1)
        + 0.3 * random(24, 32, seed=seed + 2)
    ),
    "scales": lambda seed: (
        random(24, 32, seed=seed)
        * random(24, 1, seed=seed + 1).exp()
        * random(1, 32, seed=seed + 2).exp()
    ),
    "prime": lambda seed: random(23, 31, seed=seed),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("seed", [0, 10])
@pytest.mark.parametrize("aware", [False, True])
def test_never_worse_than_low_rank_at_equal_parameters(kind, seed, aware):
    weight = WEIGHTS[kind](seed)
    x = random(300, weight.shape[1], seed=5) @ random(weight.shape[1], weight.shape[1], seed=6)
    metric = Metric(x.T @ x / 300) if aware else Metric()
    for share in (0.3, 0.6):
        parameters = int(share * weight.numel())
        fit = search_shape(weight, parameters, metric)
        assert fit.layer().shape.parameters <= parameters
        assert fit.error <= low_rank_error(weight, parameters, metric) + 1e-12


@pytest.mark.parametrize("right", [(2, 4), (4, 2), (8, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_strictly_better_where_a_kronecker_product_is_planted(right, seed):
    left = (24 // right[0], 32 // right[1])
    weight = torch.kron(random(*left, seed=seed), random(*right, seed=seed + 1))
    weight = weight + 0.05 * weight.std() * random(24, 32, seed=seed + 2)
    parameters = weight.numel() // 2
    fit = search_shape(weight, parameters)
    assert fit.error < 0.9 * low_rank_error(weight, parameters, Metric())


def test_strictly_better_where_both_are_planted():
    weight = random(48, 2) @ random(2, 64, seed=1)
    weight = weight + torch.kron(random(12, 16, seed=2), random(4, 4, seed=3))
    parameters = weight.numel() // 5
    fit = search_shape(weight, parameters)
    assert fit.error < 0.5 * low_rank_error(weight, parameters, Metric())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="10 parameters are too few for a weight of 24x32"):
        search_shape(random(24, 32), 10)
    with pytest.raises(ValueError, match="finalists=0"):
        ShapeSearch(finalists=0)
