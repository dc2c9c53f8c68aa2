"""When a trial ends early: against naive versions of the rules, and on curves of known ranks."""

import itertools
import json
import math
import random
import statistics
from pathlib import Path

import pytest

from mobilellm.search.study.curves import Curve, read_losses
from mobilellm.search.study.pruning import PruningRule, replay

BUDGET = 1000
VALIDATIONS = range(100, 1001, 100)


def curve(number, final, *, slope=1.0, costs=(), until=BUDGET):
    """A loss that falls with the tokens; curves of one slope never cross."""
    losses = tuple((t, final + slope * (1 - t / BUDGET)) for t in VALIDATIONS if t <= until)
    return Curve(number, losses, costs)


def decide(rule, own, others, tokens):
    return rule.decide(own.until(tokens), others, tokens, BUDGET)


@pytest.mark.parametrize(("first", "factor", "rungs"), [
    (0.25, 2, (0.25, 0.5)), (0.125, 2, (0.125, 0.25, 0.5)), (0.1, 3, (0.1, 0.3, 0.9)),
    (0.5, 4, (0.5,)), (1 / 9, 3, (1 / 9, 1 / 3)),
])  # fmt: skip
def test_rungs_of_halving(first, factor, rungs):
    rule = PruningRule(rule="halving", first_rung=first, factor=factor)
    assert rule.rungs(7) == pytest.approx(rungs)


@pytest.mark.parametrize("seed", range(20))
def test_halving_keeps_the_best_share_of_those_at_the_rung(seed):
    generator = random.Random(seed)
    factor, margin = generator.choice([2, 3, 4]), generator.choice([0.0, 0.1])
    rule = PruningRule(
        rule="halving", first_rung=0.3, factor=factor, margin=margin, startup_trials=2
    )
    others = [
        curve(n, generator.uniform(3, 4), until=generator.choice([200, 300, 600, 1000]))
        for n in range(generator.randint(0, 9))
    ]
    own = curve(99, generator.uniform(3, 4))
    found = decide(rule, own, others, 300)
    at_rung = [dict(other.losses)[300] for other in others if len(other.losses) >= 3]
    mine = dict(own.losses)[300]
    better = sum(loss < mine - margin for loss in at_rung)
    kept = math.ceil((len(at_rung) + 1) / factor)
    assert found.compared == len(at_rung)
    assert found.is_pruned == (len(at_rung) >= 2 and better >= kept)
    assert decide(rule, own, others, 200) is None
    assert decide(rule, own, others, 400) is None


@pytest.mark.parametrize("seed", range(10))
def test_the_median_rule_compares_the_best_loss_so_far(seed):
    generator = random.Random(seed)
    rule = PruningRule(rule="median", first_rung=0.3, startup_trials=3)
    losses = {n: [(t, generator.uniform(3, 4)) for t in VALIDATIONS] for n in range(6)}
    own, *others = [Curve(n, tuple(points)) for n, points in losses.items()]
    for tokens in VALIDATIONS:
        found = decide(rule, own, others, tokens)
        if tokens < 300 or tokens == BUDGET:
            assert found is None
            continue
        best = min(loss for t, loss in losses[0] if t <= tokens)
        median = statistics.median(dict(losses[n])[tokens] for n in range(1, 6))
        assert found.is_pruned == (best > median)


def test_the_median_counts_a_diverged_trial_as_worse_than_every_other():
    rule = PruningRule(rule="median", first_rung=0.1, startup_trials=3)
    diverged = Curve(3, ((100, 9.0), (200, math.nan)))
    for order in itertools.permutations([curve(1, 3.0), curve(2, 3.5), diverged]):
        assert decide(rule, curve(9, 3.4), order, 200).is_pruned is False
        assert decide(rule, curve(9, 3.6), order, 200).is_pruned is True


def test_brackets_of_hyperband_differ_in_their_first_rung_and_are_kept_apart():
    rule = PruningRule(rule="hyperband", first_rung=0.25, factor=2, startup_trials=1)
    assert [rule.rungs(n) for n in range(4)] == [(0.25, 0.5), (0.5,), (), (0.25, 0.5)]
    better_ones_of_other_brackets = [curve(1, 1.0), curve(2, 1.0)]
    found = decide(rule, curve(0, 3.0), better_ones_of_other_brackets, 300)
    assert (found.compared, found.is_pruned) == (0, False)
    assert decide(rule, curve(0, 3.0), [curve(3, 1.0)], 300).is_pruned
    assert decide(rule, curve(2, 3.0), [curve(5, 1.0)], 300) is None


def test_with_several_objectives_only_models_that_cost_no_more_count():
    rule = PruningRule(rule="halving", first_rung=0.3, factor=2, startup_trials=1)
    small = curve(0, 3.5, costs=(10.0,))
    larger_and_better = [curve(n, 3.0, costs=(20.0,)) for n in (1, 2, 3)]
    assert not decide(rule, small, larger_and_better, 300).is_pruned
    assert decide(rule, curve(4, 3.6, costs=(20.0,)), [small, *larger_and_better], 300).is_pruned
    equal_cost = curve(5, 3.4, costs=(10.0,))
    assert decide(rule, small, [equal_cost], 300).is_pruned


def test_nobody_is_ended_without_enough_others_or_at_the_end():
    rule = PruningRule(rule="halving", first_rung=0.3, factor=2, startup_trials=4)
    better = [curve(n, 1.0) for n in range(3)]
    assert not decide(rule, curve(9, 3.0), better, 300).is_pruned
    assert decide(rule, curve(9, 3.0), [*better, curve(3, 1.0)], 300).is_pruned
    assert decide(rule, curve(9, 3.0), better, BUDGET) is None


def test_a_loss_that_is_not_finite_ends_the_trial():
    rule = PruningRule(rule="halving", first_rung=0.3, startup_trials=4)
    own = Curve(0, ((100, 3.0), (300, math.nan)))
    assert rule.decide(own, [], 300, BUDGET).is_pruned
    others = [Curve(n, ((300, math.nan),)) for n in range(1, 6)]
    assert not decide(rule, curve(9, 3.0), others, 300).is_pruned


@pytest.mark.parametrize("seed", range(5))
def test_replay_of_curves_that_never_cross_keeps_the_winner_and_saves_tokens(seed):
    generator = random.Random(seed)
    finals = [3 + 0.01 * place for place in range(16)]
    generator.shuffle(finals)
    curves = [curve(number, final) for number, final in enumerate(finals)]
    rule = PruningRule(rule="halving", first_rung=0.2, factor=2, startup_trials=2)
    kept = list(replay(rule, curves, BUDGET))
    full = [one for one, end in kept if end is None]
    assert min(finals) == min(dict(one.losses)[BUDGET] for one in full)
    assert sum(one.tokens for one, _ in kept) < 0.8 * 16 * BUDGET
    assert all(end is None or end.tokens == one.tokens for one, end in kept)


def test_losses_are_read_from_the_metrics_of_a_run(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "step,tokens,val/loss,val/bits_per_byte\n1,100,,\n2,200,4.5,2.0\n3,300,,\n4,400,4.0,1.8\n5,5",
        encoding="utf-8",
    )
    assert read_losses(tmp_path) == ((200, 4.5), (400, 4.0))
    assert read_losses(tmp_path, "val_bits_per_byte") == ((200, 2.0), (400, 1.8))
    assert read_losses(tmp_path / "missing") == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "halfing"}, "search.pruning.rule='halfing' is not known; use one of halving"),
        ({"first_rung": 1.0}, "search.pruning.first_rung=1.0 must be above 0 and below 1"),
        ({"factor": 1}, "search.pruning.factor=1 must be a whole number of at least 2"),
        ({"margin": -1.0}, "search.pruning.margin=-1.0 must be at least 0"),
        ({"startup_trials": 0}, "search.pruning.startup_trials=0 must be a whole number"),
    ],
)
def test_settings_that_are_not_valid_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PruningRule(**settings)


def recorded_curves():
    """Validation losses of 16 shapes on real text (docs/results/search_curves.json)."""
    path = Path(__file__).parents[2] / "docs/results/search_curves.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return [tuple(zip(run["tokens"], run["val_loss"], strict=True)) for run in runs]


def test_halving_saves_tokens_on_recorded_curves_and_keeps_the_winner():
    """The first trials differ between repeats, and with them what the others are compared with."""
    recorded, kept, shares = recorded_curves(), 0, []
    for repeat in range(10):
        order = random.Random(repeat).sample(recorded, 16)
        curves = [Curve(number, losses) for number, losses in enumerate(order)]
        budget = curves[0].tokens
        ended = list(replay(PruningRule(rule="halving"), curves, budget))
        finals = [one.losses[-1][1] for one, end in ended if end is None]
        kept += min(finals) == min(one.losses[-1][1] for one in curves)
        shares.append(1 - sum(one.tokens for one, _ in ended) / (16 * budget))
    assert kept >= 9
    assert statistics.mean(shares) >= 0.4
