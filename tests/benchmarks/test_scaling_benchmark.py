"""That one process and two are measured and forecast: on tiny shapes, without believing figures."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from mobilellm.accounting.scaling import BUCKET_BYTES, forecast_step
from mobilellm.models import ModelConfig
from scripts.benchmarks.parts import measure
from scripts.benchmarks.scaling import SMALL_REDUCTIONS, _row, measured_cluster
from scripts.benchmarks.shapes import Workload

TINY = Workload(
    "1x16",
    ModelConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_blocks=1, num_attention_heads=2
    ),
    batch=4,
    sequence_length=8,
)
SECONDS = {
    "one": [1.0, 9.0, 1.0],
    "weak": [1.6, 12.0, 1.6],
    "weak_apart": [1.2, 9.0, 1.2],
    "strong": [1.0, 9.0, 1.0],
    "strong_apart": [0.75, 9.0, 0.75],
    "update": [0.2, 0.2, 0.2],
    "large": [0.5, 0.5, 0.5],
    "small": [SMALL_REDUCTIONS * 0.1] * 3,
}


def test_the_cluster_gives_back_what_was_measured_alone():
    cluster = measured_cluster(TINY, SECONDS)
    one = forecast_step(
        TINY.config, 1, sequences_per_gpu=4, sequence_length=8, precision="32-true", cluster=cluster
    )
    assert one.step_seconds == pytest.approx(1.0)
    assert one.optimizer_seconds == pytest.approx(0.2)
    reduction = BUCKET_BYTES / cluster.bytes_per_second(2) + cluster.all_reduce_seconds(2)
    assert reduction == pytest.approx(0.5)


def test_rows_say_how_two_compare_with_one_and_with_the_forecast():
    weak, strong = (_row(TINY, SECONDS, kind) for kind in ("weak", "strong"))
    assert (weak["tokens_per_step"], strong["tokens_per_step"]) == (64, 32)
    assert weak["one_tokens_per_second"] == strong["one_tokens_per_second"] == 32
    assert weak["two_tokens_per_second"] == pytest.approx(64 / 1.6)
    assert weak["speedup"] == pytest.approx(2 / 1.6)
    assert weak["speedup_apart"] == pytest.approx(2 / 1.2)
    assert strong["speedup"] == pytest.approx(1.0)
    for row in (weak, strong):
        assert row["communication_share"] == pytest.approx(1 / 4)
    # Few parameters travel at the speed of the large reduction: what remains is the latency.
    assert weak["forecast_over_measured"] == pytest.approx(1.1 / 1.6, rel=0.01)
    # Half of the sequences halve what is computed, and not what the optimizer does.
    assert strong["forecast_over_measured"] == pytest.approx(0.4 + 0.2 + 0.1, rel=0.01)
    assert weak["forecast_over_measured_both_busy"] == pytest.approx(1.3 / 1.6, rel=0.01)


@pytest.mark.slow
def test_two_processes_are_measured_by_two_clocks():
    rows = measure("scaling", rounds=1, quick=True)
    assert [(row["scaling"], row["clock"]) for row in rows] == [
        ("weak", "wall"), ("weak", "processor"), ("strong", "wall"), ("strong", "processor"),
    ]  # fmt: skip
    assert rows[0]["tokens_per_step"] == 2 * rows[2]["tokens_per_step"]
    for row in rows:
        assert min(row["one_tokens_per_second"], row["two_tokens_per_second"]) > 0
        assert 0 < row["forecast_communication_share"] < 1
