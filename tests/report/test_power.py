"""The noise, the seeds that a difference takes, and levels over several looks."""

import numpy as np
import pytest
from scipy import stats
from simulated_sweep import SHAPES, write_sweep

from mobilellm.report.analysis import analyse
from mobilellm.report.power import power_estimates
from mobilellm.report.runs import read_runs
from mobilellm.report.statistics import Noise, judge, level_until
from mobilellm.report.statistics.noise import complete_design, smallest_difference
from mobilellm.report.statistics.sequential import look_levels
from mobilellm.report.statistics.simultaneous import largest_statistic


def noise(shapes=5, seeds=3, deviation=0.008):
    labels = tuple(map(str, range(shapes)))
    return Noise(
        labels, deviation, (shapes - 1) * (seeds - 1), seeds, 10, is_against_baseline=False
    )


@pytest.mark.parametrize(("shapes", "seeds"), [(2, 3), (5, 3), (4, 6)])
def test_the_smallest_difference_is_found_in_80_percent(shapes, seeds):
    block = complete_design(seeds, shapes, against_first=False)
    random = np.random.default_rng(shapes)
    losses = random.standard_normal((20_000, seeds, shapes))
    losses[:, :, 0] += smallest_difference(shapes, seeds)
    differ = [place for place, pair in enumerate(block.pairs) if 0 in pair]
    found = block.statistics(losses)[:, differ] > largest_statistic(block).limit(0.05)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_two_shapes_have_the_power_of_the_paired_t_test():
    size = smallest_difference(2, 4) * np.sqrt(4 / 2)
    assert stats.nct.sf(stats.t.isf(0.025, 3), 3, size) == pytest.approx(0.8, abs=1e-4)


def test_seeds_for_a_difference():
    one = noise()
    needed = one.seeds_for(0.01)
    assert one.smallest_difference(needed) <= 0.01 < one.smallest_difference(needed - 1)
    assert one.seeds_for(1.0) == 3
    assert one.seeds_for(1e-5) is None
    with pytest.raises(ValueError, match="difference=0 must be above 0"):
        one.seeds_for(0)


def test_the_noise_is_the_residual_deviation():
    random = np.random.default_rng(3)
    sweep = {
        str(shape): {seed: float(random.normal(seed, 0.01)) for seed in range(40)}
        for shape in range(6)
    }
    found = judge(sweep).noise[0]
    assert found.standard_deviation == pytest.approx(0.01, rel=0.1)
    assert (found.degrees, found.num_seeds) == (195, 40)


def test_the_sentence_of_the_report(tmp_path):
    sweep = write_sweep(tmp_path, {"a": SHAPES["2×208"], "b": SHAPES["24×64"]}, seeds=range(4))
    found = analyse(read_runs([sweep]), sources=[sweep], folder=tmp_path)
    (text,) = found.power_sentences
    assert text.startswith("Noise: runs vary by 0.00")
    assert (
        "pooled over 2 configurations; 3 degrees of freedom). 4 seeds find a difference of" in text
    )
    assert "telling 0.01 nats per token apart at this noise takes " in text
    assert text.endswith(" seeds.")


def test_runs_without_noise_have_no_estimate():
    assert power_estimates([noise(deviation=0.0)], None, None) == ()


def test_levels_of_the_looks_share_the_error():
    levels = look_levels(6)
    assert list(levels) == [3, 4, 5, 6]
    # Each look has at least its share, and all of them at most the error that is stated.
    assert levels[3] == pytest.approx(0.05 * 3 / 6, abs=2e-3)
    assert all(0.05 / 6 - 2e-3 <= level <= 0.05 for level in levels.values())
    assert 0.05 <= sum(levels.values()) < 0.1
    assert look_levels(3) == {3: pytest.approx(0.05, abs=2e-3)}


@pytest.mark.parametrize("spread", [1.0, (6.0, 1, 1, 1)])
def test_looking_after_every_seed_is_wrong_in_at_most_5_percent(spread):
    random = np.random.default_rng(4)
    losses = random.standard_normal((4000, 6, 4)) * spread
    shared, naive = np.zeros(4000, dtype=bool), np.zeros(4000, dtype=bool)
    for seeds in range(3, 7):
        block = complete_design(seeds, 4, against_first=False)
        null = largest_statistic(block, is_quick=True)
        largest = block.statistics(losses[:, :seeds]).max(1)
        shared |= largest > null.limit(level_until(6)(seeds))
        naive |= largest > null.limit(0.05)
    assert shared.mean() <= 0.055
    assert naive.mean() > 0.06


def test_more_seeds_than_the_limit():
    with pytest.raises(ValueError, match="max_seeds=4, but there are 5 seeds; the limit is chosen"):
        level_until(4)(5)
    with pytest.raises(ValueError, match="max_seeds=2 must be at least 3"):
        level_until(2)
    assert level_until(None)(7) == 0.05


def test_the_margin_is_checked(tmp_path):
    sweep = write_sweep(tmp_path, {"a": SHAPES["2×208"]})
    with pytest.raises(ValueError, match=r"margin=0.0 must be above 0; it is a difference"):
        analyse(read_runs([sweep]), sources=[sweep], folder=tmp_path, margin=0.0)
