"""Comparisons of models on conversations: pairs on equal dialogues, and means over seeds."""

import re

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from simulated_sweep import model, summary, write_run

from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.stored import Evaluation, save_evaluation
from mobilellm.report import compare
from mobilellm.report.evaluation_pairs import compare_evaluations
from mobilellm.report.statistics import BETTER, NOT_COMPARABLE, WORSE

DIALOGUES = 60


def evaluated(name, share, *, loss=1.0, tokens=20, seed=0):
    """A share of right calls, of one or two in each dialogue but the first."""
    generator = np.random.default_rng(seed)
    calls = np.array([0, *([1, 2] * DIALOGUES)[: DIALOGUES - 1]])
    right = generator.binomial(calls, share)
    nats = calls * tokens * loss * generator.normal(1, 0.01, DIALOGUES)
    ratios = {
        "intent": (tuple(map(float, right)), tuple(map(float, calls))),
        "parser_nats_per_token": (tuple(nats.tolist()), tuple(map(float, tokens * calls))),
    }
    result = TaskResult(
        task="api_calling", documents=DIALOGUES, ratios=ratios,
        variants={"random": ratios, "majority": ratios}, counts={"calls": 89, "replies": 0},
        settings={"documents_hash": "a", "task_version": "1", "max_new_tokens": 9},
    )  # fmt: skip
    return Evaluation(model=name, facts={"protocol": "p"}, tasks={"api_calling": result})


def test_pairs_are_compared_on_equal_dialogues():
    first, second = evaluated("a", 0.9, loss=0.8), evaluated("b", 0.4, seed=1)
    pairs = {pair.measure: pair for pair in compare_evaluations([first, second])}
    assert {name: pair.verdict for name, pair in pairs.items()} == {
        "intent": BETTER, "parser_nats_per_token": BETTER,  # a lower loss is better
    }  # fmt: skip
    (above, below), (other, _) = (
        each.tasks["api_calling"].ratios["intent"] for each in (first, second)
    )
    difference = (sum(above) - sum(other)) / sum(below)
    assert pairs["intent"].difference.mean == pytest.approx(difference)
    # The ratio of sums, linearised around itself, by hand.
    rest = np.array(above) - np.array(other) - difference * np.array(below)
    t = difference / (rest.std(ddof=1) / np.mean(below) / DIALOGUES**0.5)
    expected = 2 * stats.t.sf(abs(t), DIALOGUES - 1)
    assert pairs["intent"].difference.p_value == pytest.approx(expected)
    backwards = {pair.measure: pair.verdict for pair in compare_evaluations([second, first])}
    assert set(backwards.values()) == {WORSE}


def test_losses_of_other_tokens_are_not_compared():
    pairs = compare_evaluations([evaluated("a", 0.9), evaluated("b", 0.4, tokens=30)])
    verdicts = {pair.measure: pair.verdict for pair in pairs}
    assert verdicts["parser_nats_per_token"] == NOT_COMPARABLE
    assert verdicts["intent"] == BETTER


def test_compare_shows_means_over_seeds(tmp_path):
    means = []
    for seed in range(2):
        folder = tmp_path / f"run-{seed}"
        write_run(folder, summary(model(2), seed=seed))
        found = evaluated(str(folder), 0.7, seed=seed)
        save_evaluation(folder, found)
        means.append(found.record()["tasks"]["api_calling"]["intent"])
    console = Console(width=100, record=True)
    console.print(compare([tmp_path], tmp_path / "report", latency=False))
    text = console.export_text()
    assert re.search(rf"api_calling\s+intent\s+–\s+{100 * sum(means) / 2:.1f}", text)
    assert re.search(r"api_calling\s+loss calls\s+–\s+1\.00", text)
