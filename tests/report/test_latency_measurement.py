"""Latencies are measured once, in a process of their own, and kept beside the report."""

import json
from typing import ClassVar

import pytest
from simulated_sweep import SHAPES, model, write_sweep

from mobilellm.evaluation.latency_process import LatencyProcess, LatencyRequest, LatencyTimes
from mobilellm.models import ModelConfig
from mobilellm.report import compare
from mobilellm.report import latency as report_latency
from mobilellm.report.latency import LatencyMeasurement
from mobilellm.report.runs import read_runs

SMALL = {"a": (model(1, 16, 32, 1, 1), 4.3), "b": (model(12, 16, 32, 1, 1), 4.2)}


class Fake:
    """A measurement that takes no time."""

    requests: ClassVar[list[LatencyRequest]] = []

    def __init__(self, request):
        self.requests.append(request)
        self.request = request

    def result(self, seconds=None):
        rounds = tuple((1.0 * m.num_layers, 1.1 * m.num_layers) for m in self.request.models)
        return LatencyTimes(rounds=rounds, processor_share=0.5)


@pytest.fixture
def fake(monkeypatch):
    Fake.requests = []
    monkeypatch.setattr(report_latency, "LatencyProcess", Fake)
    monkeypatch.setattr(report_latency, "AUTOMATIC_SHAPES", 8)
    return Fake


def runs(folder, shapes=None):
    return read_runs([write_sweep(folder, shapes or SMALL)]).finished


def test_the_process_times_every_model():
    models = tuple(config for config, _ in SMALL.values())
    process = LatencyProcess(
        LatencyRequest(models=models, threads=1, context=8, decode_tokens=2, rounds=3)
    )
    times = process.result(120)
    one, twelve = times.rounds
    assert 0 < times.processor_share <= 1
    assert (len(one), len(twelve)) == (3, 3)
    assert sorted(twelve)[1] > sorted(one)[1] > 0


def test_a_process_that_fails_or_takes_too_long_says_so():
    small = ModelConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_blocks=1,
                        num_attention_heads=1, max_position_embeddings=4)  # fmt: skip
    request = {"models": (small,), "threads": 1, "decode_tokens": 2, "rounds": 1}
    with pytest.raises(RuntimeError, match=r"more than max_position_embeddings=4"):
        LatencyProcess(LatencyRequest(**request, context=8)).result(120)
    with pytest.raises(RuntimeError, match="it took more than 0 seconds"):
        LatencyProcess(LatencyRequest(**request, context=1)).result(0.01)


def test_latencies_are_measured_once_and_read_again(tmp_path, fake):
    found = runs(tmp_path / "runs")
    first = LatencyMeasurement(found, tmp_path, wanted=None).result()
    assert sorted(first.rounds.values()) == [(1.0, 1.1), (12.0, pytest.approx(13.2))]
    assert LatencyMeasurement(found, tmp_path, wanted=None).result() == first
    assert len(fake.requests) == 1
    assert len(fake.requests[0].models) == 2  # three seeds each


def test_a_new_shape_or_another_machine_is_measured_with_the_others(tmp_path, fake, monkeypatch):
    found = runs(tmp_path / "runs")
    LatencyMeasurement(found, tmp_path, wanted=None).result()
    more = [*found, *runs(tmp_path / "more", {"c": (model(2, 32, 64, 2, 2), 4.1)})]
    LatencyMeasurement(more, tmp_path, wanted=None).result()
    assert len(fake.requests[1].models) == 3
    monkeypatch.setattr(report_latency, "device_name", lambda accelerator: "another machine")
    LatencyMeasurement(more, tmp_path, wanted=None).result()
    assert len(fake.requests) == 3


def test_asked_for_it_measures_anew_and_longer(tmp_path, fake):
    found = runs(tmp_path / "runs")
    LatencyMeasurement(found, tmp_path, wanted=None).result()
    LatencyMeasurement(found, tmp_path, wanted=True).result()
    assert fake.requests[1].rounds > fake.requests[0].rounds


@pytest.mark.parametrize("limit", ["AUTOMATIC_SHAPES", "AUTOMATIC_PARAMETERS"])
def test_many_or_large_shapes_are_measured_only_if_asked_for(tmp_path, fake, monkeypatch, limit):
    monkeypatch.setattr(report_latency, limit, 1)
    found = runs(tmp_path / "runs")
    reason = LatencyMeasurement(found, tmp_path, wanted=None).result().reason
    assert reason == "there are 2 shapes of up to 63.9k parameters; --latency measures it"
    assert not fake.requests
    assert LatencyMeasurement(found, tmp_path, wanted=True).result().conditions is not None


def test_shapes_of_one_depth_and_no_latency_measure_nothing(tmp_path, fake):
    one = {"a": (model(2, 16, 32, 1, 1), 4.3), "b": (model(2, 32, 64, 2, 2), 4.2)}
    assert (
        LatencyMeasurement(runs(tmp_path / "a", one), tmp_path, wanted=None).result().reason == ""
    )
    refused = LatencyMeasurement(runs(tmp_path / "b"), tmp_path, wanted=False).result()
    assert refused.reason == "--no-latency was given"
    assert not fake.requests


def test_conditions_are_those_that_the_runs_were_matched_at(tmp_path, fake):
    matched = {"match": "latency", "reached": 2.5, "profile": {"threads": 4, "context": 100}}
    found = read_runs([write_sweep(tmp_path / "runs", SMALL, matched=matched)]).finished
    conditions = LatencyMeasurement(found, tmp_path, wanted=None).result().conditions
    assert (conditions.threads, conditions.context) == (4, 100)


@pytest.mark.parametrize("content", ["", "{}", '{"conditions": 1, "rounds": {}}'])
def test_a_damaged_file_is_measured_again(tmp_path, fake, content):
    (tmp_path / "latency.json").write_text(content, encoding="utf-8")
    found = LatencyMeasurement(runs(tmp_path / "runs"), tmp_path, wanted=None).result()
    assert len(found.rounds) == 2


def test_a_failed_measurement_leaves_the_report_without_it(tmp_path, fake, monkeypatch):
    def fail(self, seconds=None):
        raise RuntimeError("it took more than 30 seconds")

    monkeypatch.setattr(fake, "result", fail)
    found = compare([write_sweep(tmp_path / "runs", {n: SHAPES[n] for n in ("2×208", "24×64")})])
    assert "not measured: it took more than 30 seconds; --latency measures" in found.findings[1]


def test_the_report_shows_latencies_in_table_page_plot_and_json(tmp_path, fake):
    found = compare([write_sweep(tmp_path / "runs", {n: SHAPES[n] for n in ("2×208", "24×64")})])
    folder = found.folder
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "<h2>What was held equal</h2>" in page and "<h2>At equal latency</h2>" in page
    assert "1 thread of " in page
    busy = "Other work took 50 % of the time, so the milliseconds are too large"
    assert busy in page and any(busy in text for text in found.findings)
    assert (folder / "loss_against_latency.png").stat().st_size > 10_000
    record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert [shape["decode_ms_per_token"] for shape in record["shapes"]] == pytest.approx(
        [2.1, 25.2]
    )
    (held,) = record["held_equal"]
    equal = [each["quantity"] for each in held["quantities"] if each["is_equal"]]
    assert {"body parameters", "training tokens"} <= set(equal)
    assert "stored parameters" not in equal and "measured decode latency" not in equal
    (pair,) = record["equal_latency"]["pairs"]
    assert (pair["first"], pair["second"]) == ("24×64", "2×208")
    assert pair["verdict"] == "better, but slower"
    assert record["latency"]["conditions"]["threads"] == 1
