"""Masks and SparseGPT against slow definitions."""

import pytest
import torch

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.pruning import (
    magnitude_mask,
    pruned_count,
    sparsegpt,
    wanda_mask,
)
from mobilellm.layers.masked import MaskedLinear

SPARSITIES = [0.0, 0.1, 0.3, 0.5, 0.77, 0.99]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment_of(width, tokens=200, seed=3):
    """Of correlated inputs of unequal size."""
    x = random(tokens, width, seed=seed) @ random(width, width, seed=seed + 1)
    x = x * random(width, seed=seed + 2).exp()
    return x.T @ x / tokens


def slow_sparsegpt(weight, moment, sparsity, pattern, block_size, damping):
    """Each removal answered by a fresh inverse of the moment of the columns still open."""
    rows, width = weight.shape
    weight, mask = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    hessian = moment + damping * moment.diagonal().mean() * torch.eye(width, dtype=moment.dtype)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(width)]
    n, m = (0, block_size) if pattern == "unstructured" else map(int, pattern.split(":"))
    for j in range(width):
        if j % m == 0:
            columns = range(j, min(j + m, width))
            costs = {(r, c): float(weight[r, c] ** 2 / inverses[c][0, 0])
                     for r in range(rows) for c in columns}  # fmt: skip
            if n == 0:
                count = pruned_count(rows * (columns[-1] + 1), sparsity)
                gone = sorted(costs, key=costs.__getitem__)[: count - int((~mask).sum())]
            else:
                gone = [key for r in range(rows)
                        for key in sorted(((r, c) for c in columns), key=costs.__getitem__)[: m - n]
                        ]  # fmt: skip
            for r, c in gone:
                mask[r, c] = False
        for r in range(rows):
            if not mask[r, j]:
                inverse = inverses[j]
                weight[r, j:] -= weight[r, j] / inverse[0, 0] * inverse[0]
    return weight * mask, mask


@pytest.mark.parametrize(
    ("pattern", "sparsity", "block_size"),
    [("unstructured", 0.5, 4), ("unstructured", 0.3, 5), ("unstructured", 0.7, 128),
     ("2:4", 0.5, 4), ("2:4", 0.5, 128), ("1:4", 0.75, 8), ("2:3", 1 / 3, 6)],
)  # fmt: skip
def test_sparsegpt_is_the_direct_solution_of_every_removal(pattern, sparsity, block_size):
    weight, moment = random(5, 12), moment_of(12)
    given = sparsegpt(weight, moment, sparsity, pattern, block_size=block_size, damping=0.01)
    expected = slow_sparsegpt(weight, moment, sparsity, pattern, block_size, 0.01)
    assert torch.equal(given[1], expected[1])
    assert torch.allclose(given[0], expected[0], rtol=1e-8, atol=1e-10)


def test_the_last_removal_leaves_the_best_weights_of_its_row():
    """One removal from the first column: least squares over all others gives the same."""
    moment, weight = moment_of(6), random(1, 6)
    weight[0, 0] = 1e-6  # certainly the one that goes
    new, mask = sparsegpt(weight, moment, 1 / 6, damping=0.0)
    assert not mask[0, 0]
    best = torch.linalg.solve(moment[1:, 1:], moment[1:] @ weight[0])
    assert torch.allclose(new[0, 1:], best, rtol=1e-6)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_wanda_against_loops(sparsity):
    weight, norms = random(7, 11), random(11, seed=5).exp()
    expected = torch.ones(7, 11, dtype=torch.bool)
    done = 0
    for r in range(7):
        until = pruned_count((r + 1) * 11, sparsity)
        ranked = sorted(range(11), key=lambda c: abs(float(weight[r, c])) * float(norms[c]))
        expected[r, ranked[: until - done]] = False
        done = until
    mask = wanda_mask(weight, norms, sparsity)
    assert torch.equal(mask, expected)
    assert mask.sum(1).max() - mask.sum(1).min() <= 1


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("ties", [False, True])
def test_counts_are_exact_whatever_is_equal(sparsity, ties):
    weight = torch.ones(9, 14) if ties else random(9, 14).float()
    moment = torch.eye(14, dtype=torch.float64) if ties else moment_of(14)
    masks = [magnitude_mask(weight, sparsity),
             wanda_mask(weight, moment.diagonal().sqrt(), sparsity),
             sparsegpt(weight, moment, sparsity, block_size=4)[1]]  # fmt: skip
    for mask in masks:
        assert int((~mask).sum()) == pruned_count(9 * 14, sparsity)


def test_magnitude_keeps_the_largest():
    weight = random(9, 14)
    mask = magnitude_mask(weight, 0.4)
    assert weight[mask].abs().min() > weight[~mask].abs().max()


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("4:8", 0.5)])
def test_n_of_every_m_inputs_are_kept(pattern, sparsity):
    weight, moment = random(6, 16), moment_of(16)
    n, m = map(int, pattern.split(":"))
    new, mask = sparsegpt(weight, moment, sparsity, pattern)
    norms = moment.diagonal().sqrt()
    by_size = magnitude_mask(weight, sparsity, pattern)
    by_use = wanda_mask(weight, norms, sparsity, pattern)
    for kept, scores in ((mask, None), (by_size, weight.abs()), (by_use, weight.abs() * norms)):
        assert (kept.view(6, -1, m).sum(-1) == n).all()
        if scores is not None:
            low = scores.masked_fill(kept, 0).view(6, -1, m).amax(-1)
            high = scores.masked_fill(~kept, float("inf")).view(6, -1, m).amin(-1)
            assert (low < high).all()
    assert (new[~mask] == 0).all()


@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.6), ("2:4", 0.5)])
@pytest.mark.parametrize("seed", range(5))
def test_outputs_suffer_less_the_more_a_method_looks_at(pattern, sparsity, seed):
    weight, moment = random(24, 32, seed=seed), moment_of(32, seed=10 * seed + 3)
    metric = Metric(moment)
    new, _ = sparsegpt(weight, moment, sparsity, pattern)
    masks = [magnitude_mask(weight, sparsity, pattern),
             wanda_mask(weight, moment.diagonal().sqrt(), sparsity, pattern)]  # fmt: skip
    errors = [metric.relative_error(weight, weight * mask) for mask in masks]
    assert metric.relative_error(weight, new) < min(errors)


def test_inputs_never_seen_are_pruned_first_and_the_scale_is_free():
    weight, moment = random(4, 8), moment_of(8)
    moment[[2, 5]] = 0
    moment[:, [2, 5]] = 0
    new, mask = sparsegpt(weight, moment, 0.25)
    assert mask[:, [2, 5]].sum() == 0
    assert torch.allclose(new[mask], weight[mask])  # nothing that is seen went
    tiny, _ = sparsegpt(weight, moment * 1e-9, 0.6)
    assert torch.allclose(tiny, sparsegpt(weight, moment, 0.6)[0], rtol=1e-6, atol=1e-9)


def test_masked_weights_stay_zero_in_training():
    weight = random(6, 8).float()
    layer = MaskedLinear(weight, magnitude_mask(weight, 0.5))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for step in range(3):
        layer(random(5, 8, seed=step).float()).square().sum().backward()
        optimizer.step()
    assert (layer.weight[~layer.mask] == 0).all()
    assert (layer.weight[layer.mask] != weight[layer.mask]).all()


@pytest.mark.parametrize(
    ("sparsity", "pattern", "message"),
    [
        (1.0, "unstructured", r"sparsity=1.0 must be at least 0 and below 1"),
        (-0.1, "unstructured", r"sparsity=-0.1 must be at least 0"),
        (0.4, "2:4", r"sparsity=0.4 contradicts pattern=2:4.*use sparsity=0.5"),
        (0.5, "2:4", r"divisible by 4, the matrix has 6; use pattern=unstructured"),
        (0.5, "4:2", r"pattern='4:2' is not known; use unstructured, 2:4"),
        (0.5, "blocks", r"pattern='blocks' is not known"),
    ],
)
def test_what_cannot_be_meant_is_refused(sparsity, pattern, message):
    weight, moment = random(3, 6), moment_of(6)
    for prune in (
        lambda: magnitude_mask(weight, sparsity, pattern),
        lambda: wanda_mask(weight, moment.diagonal(), sparsity, pattern),
        lambda: sparsegpt(weight, moment, sparsity, pattern),
    ):
        with pytest.raises(ValueError, match=message):
            prune()


def test_shapes_that_do_not_fit_are_refused():
    weight = random(3, 8)
    with pytest.raises(ValueError, match=r"input_norms has shape \(3,\); give one per input"):
        wanda_mask(weight, torch.ones(3), 0.5)
    with pytest.raises(ValueError, match=r"second_moment has shape \(6, 6\).*give \(8, 8\)"):
        sparsegpt(weight, moment_of(6), 0.5)
    with pytest.raises(ValueError, match="block_size=6 would split groups of pattern=2:4"):
        sparsegpt(weight, moment_of(8), 0.5, "2:4", block_size=6)
    with pytest.raises(ValueError, match=r"singular with damping=0.*larger damping"):
        sparsegpt(weight, torch.ones(8, 8), 0.5, damping=0.0)
