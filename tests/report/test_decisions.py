"""Early decisions against a count in plain loops."""

import math

import numpy as np
import pytest
from scipy.stats import rankdata
from simulated_sweep import SHAPES, summary, write_run

from mobilellm.report import compare
from mobilellm.report.curves import Curve, Points
from mobilellm.report.decisions import SHARES, decisions
from mobilellm.report.run_groups import group_runs
from mobilellm.report.runs import read_runs

NAMES = ["2×208", "4×160", "8×112", "16×64"]
TOKENS = 1_000_000


@pytest.fixture
def groups(tmp_path):
    """Four shapes with three seeds, each with a curve of its own."""
    for name in NAMES:
        config, loss = SHAPES[name]
        for seed in range(3):
            write_run(tmp_path / f"{name}-{seed}", summary(config, seed=seed, loss=loss))
    return group_runs(read_runs([tmp_path]).finished)[0]


def with_curves(groups, seed):
    """Random curves, from the first weights on; points lie at the shares, none in between."""
    random = np.random.default_rng(seed)
    tokens = (0.0, *(share * TOKENS for share in SHARES))
    for group in groups:
        for run in group.runs:
            loss = tuple(5 - np.arange(len(tokens)) * 0.1 + random.normal(0, 0.1, len(tokens)))
            points = Points(tokens, (math.nan,) * len(tokens), loss)
            object.__setattr__(run, "curve", Curve(validation=points))
    return groups


@pytest.mark.parametrize("seed", range(5))
def test_decisions_are_those_of_a_plain_count(groups, seed):
    found = decisions(with_curves(groups, seed), "val_loss")
    assert found.num_seeds == 3 and len(found.labels) == 4
    curves = [[run.curve.validation.loss for run in group.runs] for group in groups]
    final = [np.mean([curve[-1] for curve in of_shape]) for of_shape in curves]
    assert len(found.by_share) == len(SHARES)
    for place, decision in enumerate(found.by_share, start=1):
        right = total = winners = 0
        correlations = []
        for one in range(3):
            early = [of_shape[one][place] for of_shape in curves]
            winners += early.index(min(early)) == final.index(min(final))
            for a in range(4):
                for b in range(a):
                    total += 1
                    right += (early[a] < early[b]) == (final[a] < final[b])
            gaps = rankdata(early) - rankdata(final)
            correlations.append(1 - 6 * sum(gaps**2) / (4 * 15))
        assert decision.share == SHARES[place - 1]
        assert decision.pairs == pytest.approx(right / total)
        assert decision.winner == pytest.approx(winners / 3)
        assert decision.rank_correlation == pytest.approx(np.mean(correlations))
        means = [np.mean([curve[place] for curve in of_shape]) for of_shape in curves]
        assert decision.winner_of_mean == (means.index(min(means)) == final.index(min(final)))


def test_too_little_says_nothing(groups, tmp_path):
    assert decisions(groups[:2], "val_loss") is None
    assert decisions(groups, "val_bits_per_byte") is None
    assert decisions(groups, None) is None
    for group in groups:
        object.__setattr__(group, "runs", group.runs[:2])
    assert decisions(groups, "val_loss") is None


def test_only_shapes_with_equal_tokens_count(groups):
    object.__setattr__(groups[0].first, "tokens", 2 * TOKENS)
    found = decisions(groups, "val_loss")
    assert found.labels == tuple(group.label for group in groups[1:])


def test_shares_before_the_first_validation_are_left_out(groups):
    found = decisions(groups, "val_loss")
    first = min(run.curve.validation.tokens[0] for group in groups for run in group.runs)
    assert [d.share for d in found.by_share] == [s for s in SHARES if s * TOKENS >= first]


def test_the_report_has_a_sentence_a_plot_and_data(groups, tmp_path):
    found = compare([tmp_path], tmp_path / "out")
    [sentence] = [text for text in found.findings if text.startswith("Early decisions")]
    assert "3 seeds): 100 % after 10 % of the tokens, 100 % after 50 %" in sentence
    assert (tmp_path / "out/decision_accuracy.png").stat().st_size > 10_000
    assert '"decisions": {' in (tmp_path / "out/comparison.json").read_text(encoding="utf-8")
