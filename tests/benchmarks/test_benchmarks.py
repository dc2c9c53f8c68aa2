"""That the measurements measure: on tiny shapes, without believing any figure."""

import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2]))

from mobilellm.accounting import count_parameters
from mobilellm.models import ModelConfig
from scripts.benchmarks.adapters import measure_adapters
from scripts.benchmarks.distillation import measure_distillation
from scripts.benchmarks.factorized import feed_forward, measure_factorized
from scripts.benchmarks.gpu import Bench, gpu_parts, measure_gpu
from scripts.benchmarks.gpu_training import _contestants
from scripts.benchmarks.loop import RandomTokens, _compare
from scripts.benchmarks.optimizer_step import measure_muon
from scripts.benchmarks.peer_models import huggingface_llama, llama_shape
from scripts.benchmarks.peers import HuggingFaceStep, OurStep
from scripts.benchmarks.results import results_table, write_results
from scripts.benchmarks.rounds import alternate, median_ratio, repeated
from scripts.benchmarks.shapes import Workload, demo_workloads, large_workload, preset
from scripts.benchmarks.train_step import compare_steps, measure_litgpt


def tiny():
    config = ModelConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_blocks=2,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    return Workload("2x16", config, batch=2, sequence_length=8)


def test_contestants_take_turns_in_an_order_that_turns_around():
    calls = []
    names = ("a", "b", "c")
    seconds = alternate({n: (lambda n=n: calls.append(n)) for n in names}, rounds=2)
    assert calls == ["a", "b", "c", "a", "b", "c", "c", "b", "a"]
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_the_ratio_is_taken_within_rounds():
    seconds = {"ours": [1.0, 10.0, 2.0], "theirs": [2.0, 30.0, 2.0]}
    assert median_ratio(seconds, "ours", "theirs") == 2.0


def test_repeating_fills_the_time_asked_for():
    calls = []
    repeat, count = repeated(lambda: calls.append(1), seconds=0.001)
    repeat()
    assert len(calls) == 2 + count


@pytest.mark.parametrize("workload", [tiny(), demo_workloads()[2], large_workload()])
def test_the_peer_has_the_same_shape(workload):
    pytest.importorskip("transformers")
    with torch.device("meta"):
        peer = huggingface_llama(llama_shape(workload.config))
    assert sum(p.numel() for p in peer.parameters()) == count_parameters(workload.config).stored


def test_steps_change_the_weights_of_both():
    pytest.importorskip("transformers")
    for step in (OurStep(tiny()), HuggingFaceStep(tiny())):
        before = [p.detach().clone() for p in step.model.parameters()]
        step()
        changed = [not (a == b).all() for a, b in zip(before, step.model.parameters(), strict=True)]
        assert all(changed)


def test_a_comparison_gives_speeds_and_shares():
    pytest.importorskip("transformers")
    row = compare_steps(tiny(), "huggingface", rounds=1, seconds=0.01)
    assert row["ratio"] == pytest.approx(
        row["ours_tokens_per_second"] / row["huggingface_tokens_per_second"]
    )
    assert 0 < row["ours_share_of_matmul_rate"] < 1


def test_litgpt_is_not_measured_without_its_python(monkeypatch):
    monkeypatch.delenv("LITGPT_PYTHON", raising=False)
    (row,) = measure_litgpt(rounds=1, seconds=0.01)
    assert row == {"not measured": "set LITGPT_PYTHON to a Python that has the package litgpt"}


def test_the_loop_is_compared_with_a_bare_one():
    row = _compare(tiny(), rounds=1, steps=6)
    assert row["bare_seconds_per_step"] > 0
    assert row["lightning_seconds_per_step"] > 0
    assert len(RandomTokens(32, 100).windows("train", 10)) == 9


def test_rows_of_a_table_may_differ():
    table = results_table("part", [{"a": 1}, {"a": 2, "b": 3}])
    console = Console(width=60)
    with console.capture() as printed:
        console.print(table)
    assert printed.get().split()[:3] == ["part", "a", "b"]


@pytest.mark.slow
def test_a_distilled_step_is_measured():
    costs, memory = measure_distillation(rounds=1, seconds=0.01, quick=True)[1:]
    assert costs["store_cost"] > 0
    assert costs["online_cost"] > 0
    assert memory["labels_loss_bytes"] >= 0


def test_both_ways_of_a_muon_step_are_measured():
    [row] = measure_muon(rounds=1, seconds=0.01, quick=True)
    assert row["matrices"] == 7 * 16
    assert min(row[f"{name}_ms"] for name in ("torch", "bfloat16", "float32", "chosen")) > 0
    assert row["speedup"] > 0 and row["chosen"] in ("bfloat16", "float32")


@pytest.mark.slow
def test_factorised_layers_have_half_the_parameters_of_dense_ones():
    rows = measure_factorized(rounds=1, seconds=0.01, quick=True)
    assert all(row.keys() == rows[0].keys() for row in rows)
    counts = {row["feed_forward"]: row["parameters"] for row in rows[:-1]}
    assert counts["kronecker"] == counts["formed"] == counts["dense"] / 2 + 4
    assert 0.9 * counts["kronecker"] < counts["low_rank"] == counts["two_linears"]
    assert counts["low_rank"] <= counts["kronecker"]
    for row in rows[:-1]:
        assert row["ms_at_1"] > 0
        assert row["peak_bytes"] >= 0
    assert rows[0]["over_dense_at_4096"] == rows[-2]["over_formed_at_1"] == 1
    assert rows[-1]["seconds_to_kronecker"] > 0


def test_the_contestants_that_form_the_product_and_that_do_not_agree():
    formed, applied = feed_forward("formed", 8, 16), feed_forward("kronecker", 8, 16)
    formed.load_state_dict(
        {name.replace(".", ".layer.", 1): t for name, t in applied.state_dict().items()}
    )
    x = torch.randn(5, 8)
    torch.testing.assert_close(formed(x), applied(x))


def test_results_are_shown_and_kept_by_part(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, {"train": [{"shape": "a", "ratio": 2.0}]})
    write_results(path, {"data": [{"peak_bytes": 5_000_000}, {"peak_bytes": 6_000_000}]})
    kept = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert kept["train"] == [{"shape": "a", "ratio": 2.0}]
    console = Console(record=True, width=100)
    console.print(results_table("data", kept["data"]))
    assert "5 MB" in console.export_text()


@pytest.mark.slow
def test_the_parts_on_a_gpu_are_measured_once(monkeypatch):
    """On a CPU and a tiny shape; those that are known for this device are left out."""
    monkeypatch.delenv("LITGPT_PYTHON", raising=False)
    monkeypatch.setattr("scripts.benchmarks.gpu_training.matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr("mobilellm.callbacks.throughput.matmul_rate", lambda *_: 1e9)
    found = dict(measure_gpu({}, rounds=1, quick=True))
    parts = gpu_parts(Bench("cpu", 1, steps=1, sequence_length=16, compiles=False))
    assert list(parts) == [
        "gpu training mobilellm_125m", "gpu cuda graph", "gpu callbacks", "gpu documents",
        "gpu decoding", "gpu muon", "gpu float8", "gpu training mobilellm_ls_125m",
        "gpu training mobilellm_350m", "gpu training mobilellm_1b", "gpu each callback",
        "gpu whole compilation",
    ]  # fmt: skip
    assert set(found) < set(parts)
    [row] = found["gpu training mobilellm_125m"]
    for name in ("ours", "huggingface"):
        assert row[f"{name}_tokens_per_second"] > 0
        assert row[f"{name}_peak_bytes"] > 0
    assert row["forecast_bytes"] > 0
    assert [row["document_mask"] for row in found["gpu documents"]] == [False, True]
    assert [len(found[f"gpu {name}"]) for name in ("callbacks", "each callback")] == [3, 6]
    assert 0 < found["gpu muon"][0]["share"] < 1
    del found["gpu muon"]
    known = {name: [{**row, "tokens_per_second": -1} for row in found[name]] for name in found}
    assert [name for name, _ in measure_gpu(known, rounds=1, quick=True)] == ["gpu muon"]


def test_without_a_gpu_nothing_is_measured():
    if not torch.cuda.is_available():
        assert dict(measure_gpu({}, rounds=1)) == {"gpu": [{"not measured": "no CUDA device"}]}


def test_a_model_that_shares_blocks_has_no_peer():
    shared = preset("mobilellm_ls_125m")
    assert (shared.num_blocks, shared.num_layers) == (30, 60)
    bench = Bench("cpu", 1, steps=1, sequence_length=16, compiles=False)
    assert list(_contestants(bench, Workload("shared", shared, 1, 16))) == ["ours"]


def test_steps_of_adapters_are_compared_with_those_of_all_weights():
    rows = {r["trained"]: r for r in measure_adapters(rounds=1, seconds=0.01, quick=True)}
    assert list(rows) == ["all weights", "lora", "dora", "qlora"]
    everything = rows.pop("all weights")
    assert everything["of_all_weights"] == everything["flops_of_all_weights"] == 1
    for row in rows.values():
        assert row["parameters"] < everything["parameters"]
        # Two moments in 32 bits for each weight, and a counter for each tensor.
        assert 8 * row["parameters"] < row["optimizer_bytes"] < 9 * row["parameters"]
        assert row["of_all_weights"] > 0
