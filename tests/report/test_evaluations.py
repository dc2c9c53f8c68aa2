"""Comparisons of evaluated models, and the evaluations of runs in the report."""

import dataclasses
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from simulated_sweep import model, summary, write_run

from mobilellm.evaluation.choices import ChoiceScores
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.stored import (
    Evaluation,
    read_documents,
    read_evaluation,
    save_evaluation,
)
from mobilellm.report import compare
from mobilellm.report.evaluation_pairs import compare_evaluations, telling_measures
from mobilellm.report.evaluation_signals import task_signals
from mobilellm.report.evaluation_table import evaluation_report, short_names
from mobilellm.report.statistics import BETTER, NOT_COMPARABLE, NOT_DISTINGUISHABLE, WORSE


def evaluated(model, shift=0.0, seed=0, documents=200, documents_hash="a"):
    """Two choices each; the right one is more likely by `shift` nats than the noise says."""
    rng = np.random.default_rng(1)
    base = rng.normal(-10, 3, (documents, 2))
    noise = np.random.default_rng(seed + 10).normal(0, 0.3, (documents, 2))
    values = base + noise + [shift, 0]
    choices = tuple(
        ChoiceScores(log_likelihoods=tuple(row), characters=(7, 9), num_bytes=(7, 9), right=(0,))
        for row in values.tolist()
    )
    settings = {"num_fewshot": 0, "documents_hash": documents_hash, "task_version": "1"}
    result = TaskResult(
        task="arc_easy", documents=documents, choices=choices, settings=settings,
        harness={"acc": 0.5, "acc_norm": 0.5},
    )  # fmt: skip
    return Evaluation(model=model, facts={"protocol": "none"}, tasks={"arc_easy": result})


def test_a_clear_difference_is_found_and_bits_are_better_if_lower():
    pairs = compare_evaluations([evaluated("good", 1.0), evaluated("bad", 0.0, seed=1)])
    verdicts = {pair.measure: pair.verdict for pair in pairs}
    assert verdicts["bits_per_byte"] == verdicts["margin"] == BETTER
    (bits,) = [pair for pair in pairs if pair.measure == "bits_per_byte"]
    assert bits.difference.mean < 0
    (swapped,) = [
        p for p in compare_evaluations([evaluated("bad", 0.0, seed=1), evaluated("good", 1.0)])
        if p.measure == "bits_per_byte"
    ]  # fmt: skip
    assert swapped.verdict == WORSE
    assert swapped.corrected_p_value == pytest.approx(bits.corrected_p_value)


def test_p_values_are_those_of_the_tests_corrected_for_all_of_them():
    first, second = evaluated("a", 0.05), evaluated("b", 0.0, seed=1)
    pairs = {pair.measure: pair for pair in compare_evaluations([first, second])}
    measures = [e.tasks["arc_easy"].per_document() for e in (first, second)]
    margins = [m["margin"][0] for m in measures]
    assert pairs["margin"].difference.p_value == pytest.approx(stats.ttest_rel(*margins).pvalue)
    p_values = sorted(pair.difference.p_value for pair in pairs.values())
    smallest = min(pairs.values(), key=lambda pair: pair.difference.p_value)
    assert smallest.corrected_p_value == pytest.approx(min(1, 4 * p_values[0]))


def test_equal_models_are_rarely_told_apart():
    wrong = 0
    for seed in range(30):
        models = [evaluated("a", seed=2 * seed), evaluated("b", seed=2 * seed + 1)]
        pairs = compare_evaluations(models)
        wrong += any(pair.verdict in (BETTER, WORSE) for pair in pairs)
    assert wrong <= 6  # 5 % of 30 are 1.5


def test_different_documents_are_not_compared():
    pairs = compare_evaluations([evaluated("a"), evaluated("b", documents_hash="other")])
    assert {pair.verdict for pair in pairs} == {NOT_COMPARABLE}
    assert all(pair.difference is None for pair in pairs)


def test_the_table_says_what_tells_the_models_apart():
    models = [evaluated("runs/good", 1.0), evaluated("runs/bad", 0.0, seed=1)]
    pairs = compare_evaluations(models)
    assert telling_measures(pairs)["arc_easy"]["bits_per_byte"] == (1, 1)
    console = Console(width=80, record=True)
    console.print(evaluation_report(models, pairs, notes=["a note"]))
    text = console.export_text()
    assert "Which measures could tell these models apart" in text.splitlines()[0]
    assert re.search(r"arc_easy .* good", text) and "note: a note" in text
    assert max(map(len, text.splitlines())) <= 80
    three = [*models, evaluated("runs/third", 0.0, seed=2)]
    console = Console(width=80, record=True)
    console.print(evaluation_report(three, compare_evaluations(three)))
    assert "2 of 3" in console.export_text()


def test_names_are_as_short_as_they_may_be():
    assert short_names(["a/x/model", "a/y/model"]) == {
        "a/x/model": "x/model", "a/y/model": "y/model"
    }  # fmt: skip
    assert short_names(["out/run"]) == {"out/run": "run"}


def test_signals_are_over_shapes_and_seeds():
    runs = [
        (shape, evaluated(f"{shape}-{seed}", shift, seed=10 * seed + len(shape)).record())
        for shape, shift in (("deep", 0.0), ("wide!", 0.6))
        for seed in range(3)
    ]
    signals = {signal.measure: signal for signal in task_signals(runs)}
    values = {s: [r["tasks"]["arc_easy"]["margin"] for n, r in runs if n == s] for s, _ in runs}
    assert signals["margin"].result.p_value == pytest.approx(
        stats.f_oneway(*values.values()).pvalue
    )
    assert signals["margin"].chance == 0.5
    assert task_signals(runs[:3]) == ()
    other = ("wide!", evaluated("x", 0.6, seed=9, documents_hash="other").record())
    assert task_signals([*runs, other]) == ()


def test_commands_that_save_at_the_same_time_lose_nothing(tmp_path):
    """Each evaluates a task of its own on the same model."""

    def save(number):
        found = evaluated("m", documents=20)
        found.facts = {"model_hash": "same"}
        task = dataclasses.replace(found.tasks["arc_easy"], task=f"task {number}")
        found.tasks = {f"task {number}": task}
        return save_evaluation(tmp_path, found)

    with ThreadPoolExecutor(8) as several:
        assert list(several.map(save, range(24))) == [[]] * 24
    assert set(read_documents(tmp_path)) == {f"task {number}" for number in range(24)}
    assert len(read_evaluation(tmp_path)["tasks"]) == 24


def test_compare_shows_the_evaluations_of_runs(tmp_path):
    for shape, shift in ((2, 0.0), (8, 0.6)):
        for seed in range(2):
            folder = tmp_path / f"run-{shape}-{seed}"
            write_run(folder, summary(model(shape), seed=seed))
            save_evaluation(folder, evaluated(str(folder), shift, seed=seed + shape))
    comparison = compare([tmp_path], tmp_path / "report", latency=False)
    console = Console(width=100, record=True)
    console.print(comparison)
    assert re.search(r"arc_easy\s+accuracy\s+50\.0", console.export_text())
    assert "Benchmark tasks" in (tmp_path / "report/index.html").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "report/comparison.json").read_text(encoding="utf-8"))
    assert record["evaluated"]["num_runs"] == 4
    assert {s["measure"] for s in record["evaluated"]["signals"]} >= {"accuracy", "margin"}


def test_equal_shapes_are_not_distinguishable():
    pairs = compare_evaluations([evaluated("a"), evaluated("b")])
    assert {pair.verdict for pair in pairs} == {NOT_DISTINGUISHABLE}
