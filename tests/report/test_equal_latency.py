"""Verdicts at equal latency, from losses and latencies whose laws are known."""

import math
import re

import numpy as np
import pytest
from simulated_sweep import SHAPES, model, summary, write_run, write_sweep

from mobilellm.report.analysis import analyse, with_latencies
from mobilellm.report.equal_latency import (
    ALSO_BETTER,
    NO_DIFFERENCE,
    SLOWER,
    TIMES_UNCLEAR,
    DepthCurve,
    best_of,
    compare_depths,
    latency_ratio,
)
from mobilellm.report.latency import Latencies, LatencyConditions, shape_key
from mobilellm.report.runs import read_runs

HERE = LatencyConditions(device="here", threads=1, context=64, torch=None)
TWO = ("2×208", "24×64")


def times(ms, spread=0.01, rounds=5, start=0):
    """Rounds of one model, of a known median."""
    noise = np.random.default_rng(start).normal(0, spread, rounds)
    return tuple(ms * np.exp(noise - np.median(noise)))


def analysed(folder, ms, **options):
    """The analysis of runs, with the given latencies by label."""
    before = analyse(read_runs([folder]), sources=[folder], folder=folder)
    rounds = {
        shape_key(group.model): times(ms[group.label], start=number, **options)
        for number, group in enumerate(before.groups)
    }
    return with_latencies(before, Latencies(conditions=HERE, rounds=rounds))


def two(deep, wide):
    return {"wide": (SHAPES["2×208"][0], wide), "deep": (SHAPES["24×64"][0], deep)}


@pytest.mark.parametrize(
    ("deep", "ms", "spread", "verdict", "words"),
    [
        (4.1, (2, 1), 0.01, ALSO_BETTER, "At equal latency: 24×64 is better too, since it takes "),
        (4.1, (1, 1.9), 0.01, SLOWER, "At equal latency: not decided; 24×64 is better by 0."),
        (4.1, (1, 1.1), 0.4, TIMES_UNCLEAR, "too uncertain a ratio; compare --latency measures"),
        (4.3, (1, 1.9), 0.01, NO_DIFFERENCE, "not decided; 24×64 takes 1.9"),
        (4.3, (1, 1.0), 0.01, NO_DIFFERENCE, "At equal latency: the same, since "),
        (4.5, (1, 1.9), 0.01, ALSO_BETTER, "At equal latency: 2×208 is better too, since it takes"),
    ],
)  # fmt: skip
def test_one_size_decides_only_if_the_better_one_is_not_slower(
    tmp_path, deep, ms, spread, verdict, words
):
    shapes = two(deep, 4.3)
    found = analysed(
        write_sweep(tmp_path, shapes, noise=0.001 if deep != 4.3 else 0.02),
        dict(zip(TWO, ms, strict=True)), spread=spread,
    )  # fmt: skip
    (pair,) = found.equal_latency.pairs
    assert pair.verdict == verdict
    assert words in found.findings[1]
    if verdict == SLOWER:
        assert re.search(
            r"but takes 1\.9\d \(1\.8\d–1\.9\d\) times as long per token as 2×208\. Shapes of "
            r"equal latency would decide: experiment=matched_latency model\.budget=1\.9\.$",
            found.findings[1],
        )
    assert found.findings[0].startswith("Deepest against widest")


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (4.1, "not decided; 8×112 shared ×2 is better by 0.199"),
        (4.5, "8×112 is better too, since it takes 0.5"),
    ],
)
def test_shared_blocks_have_a_second_verdict_behind_the_first(tmp_path, loss, words):
    shapes = {"plain": (SHAPES["8×112"][0], 4.3), "shared": (SHAPES["8×112 shared ×2"][0], loss)}
    sweep = write_sweep(tmp_path, shapes, noise=0.001)
    found = analysed(sweep, {"8×112": 1.0, "8×112 shared ×2": 1.8})
    first, second, *_ = found.findings
    assert first.startswith("Sharing: 8×112 shared ×2 is ")
    assert second.startswith("Sharing at equal latency: ") and words in second


def test_pairs_of_one_depth_are_no_question_of_depth(tmp_path):
    shapes = {"a": (model(), 4.2), "b": (model(feed_forward="relu", ffn=336), 4.3)}
    found = analysed(write_sweep(tmp_path, shapes), {"8×112": 1.0, "8×112 relu": 1.0})
    assert found.equal_latency.pairs == ()
    assert not any("equal latency" in text for text in found.findings)


def test_without_a_measurement_the_report_says_which_option_measures(tmp_path):
    before = analyse(read_runs([write_sweep(tmp_path)]), sources=[tmp_path], folder=tmp_path)
    reason = "there are 12 shapes of up to 125M parameters; --latency measures it"
    after = with_latencies(before, Latencies(rounds={}, reason=reason))
    assert after.findings[1] == (
        f"At equal latency: no verdict, decode latency was not measured: {reason}."
    )


def test_the_measured_latency_is_part_of_what_was_held_equal(tmp_path):
    found = analysed(write_sweep(tmp_path, two(4.1, 4.3)), {"2×208": 1.0, "24×64": 1.04})
    (budget,) = [b for b in found.held_equal[0].budgets if b.name == "measured decode latency"]
    assert budget.is_matched
    assert budget.spread == pytest.approx(0.0196, abs=0.001)


def test_a_ratio_comes_from_rounds_that_share_disturbances():
    """Other work slows both models of a round alike."""
    random = np.random.default_rng(1)
    load = np.exp(random.normal(0, 0.5, 7))
    ratio = latency_ratio(2.0 * load, 1.0 * load)
    assert (ratio.low, ratio.mean, ratio.high) == pytest.approx((2, 2, 2))
    covered = 0
    for _ in range(400):
        first, second = np.exp(random.normal(0, 0.1, (2, 7)))
        found = latency_ratio(1.5 * first, second)
        covered += found.low <= 1.5 <= found.high
    # The standard error of this share is 1.1 %.
    assert 0.92 < covered / 400 < 0.98


def test_a_single_round_says_nothing_about_a_ratio():
    ratio = latency_ratio([1.05], [1.0])
    assert ratio.mean == pytest.approx(1.05)
    assert (ratio.low, ratio.high) == (0, math.inf)
    assert not ratio.is_equal and not ratio.inverse().is_equal


def law(depth, ms, *, best):
    """A loss that falls with the logarithm of the latency, lowest for one depth."""
    return 4 - 0.2 * math.log(ms) + 0.05 * abs(math.log2(depth / best))


def curve(depth, latencies, *, best, noise=0.001, seeds=(0, 1, 2)):
    random = np.random.default_rng(depth)
    points = tuple(
        (ms, {seed: law(depth, ms, best=best) + random.normal(0, noise) for seed in seeds})
        for ms in latencies
    )
    return DepthCurve(f"{depth} layers", points)


def test_depths_are_compared_at_common_latencies():
    curves = [
        curve(2, (1, 2, 4), best=8), curve(8, (1.5, 3, 6), best=8), curve(16, (5, 10, 20), best=8)
    ]  # fmt: skip
    levels = compare_depths(curves)
    # Of 1.5, 2, 3, 4 (2 and 8 layers), 5 and 6 (8 and 16 layers): the ends and a middle one.
    assert [level.ms for level in levels] == [1.5, 3, 6]
    for level in levels:
        best, verdicts = best_of(level)
        assert best == "8 layers"
        assert list(verdicts) == ["better"]
        for label, interval in level.losses.items():
            depth = int(label.split()[0])
            assert interval.mean == pytest.approx(law(depth, level.ms, best=8), abs=0.005)
    assert set(levels[0].losses) == {"2 layers", "8 layers"}
    assert set(levels[2].losses) == {"8 layers", "16 layers"}


def test_interpolation_is_linear_in_the_logarithm_and_pairs_seeds():
    line = DepthCurve("4 layers", ((1.0, {0: 4.0, 1: 5.0}), (4.0, {0: 3.0, 2: 9.0})))
    assert line.at(2.0) == {0: pytest.approx(3.5)}
    assert (line.covers(0.9), line.covers(4.0), line.at(5.0)) == (False, True, {})


def test_depths_without_a_common_latency_have_no_verdict():
    assert compare_depths([curve(2, (1, 2), best=2), curve(8, (3, 4), best=2)]) == ()


def test_equal_depths_are_rarely_told_apart():
    """No depth is better: at most 5 % of comparisons have any verdict at any latency."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        curves = []
        for depth in (2, 4, 8):
            points = tuple(
                (ms, {seed: 4 - 0.2 * math.log(ms) + random.normal(0, 0.01) for seed in range(4)})
                for ms in (1.0, 2.0, 4.0)
            )
            curves.append(DepthCurve(f"{depth} layers", points))
        pairs = [pair for level in compare_depths(curves) for pair in level.pairs]
        wrong += any(pair.verdict in ("better", "worse") for pair in pairs)
    assert wrong / 200 <= 0.08


def test_a_ladder_of_sizes_is_interpolated(tmp_path):
    """Two depths in three sizes: the deep one is worse at equal parameters and at equal latency."""
    shapes = {
        (2, 64): 1.0, (2, 96): 1.6, (2, 128): 2.4, (8, 32): 1.8, (8, 48): 2.3, (8, 64): 3.2,
    }  # fmt: skip
    ms = {}
    for (depth, width), time in shapes.items():
        config = model(depth, width, 2 * width, width // 16, width // 16)
        ms[f"{depth}×{width}"] = time
        for seed in (0, 1, 2):
            noise = 0.001 * math.sin(17 * seed + depth * width)
            facts = summary(config, seed=seed, loss=law(depth, time, best=2) + noise)
            write_run(tmp_path / f"{depth}x{width},{seed}", facts)
    found = analysed(tmp_path, ms)
    assert [level.ms for level in found.equal_latency.levels] == pytest.approx([1.8, 2.3, 2.4])
    texts = [text for text in found.findings if "interpolated between sizes" in text]
    assert texts[0].startswith(
        "At 1.8 ms per token (interpolated between sizes): lowest loss with 2 layers (3.88"
    )
    assert texts[0].endswith("nats per token), better than 8 layers.")
