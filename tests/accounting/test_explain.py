import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from mobilellm.accounting.cluster import Cluster
from mobilellm.accounting.explain import explain_model, explain_training
from mobilellm.accounting.scaling import forecast_step
from mobilellm.accounting.table import ladder_table, model_table
from mobilellm.models import ModelConfig
from mobilellm.units import bytes_text, duration_text, si_text

ROOT = Path(__file__).parents[2]
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_blocks": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

MOBILELLM_1B = {
    "vocab_size": 32_000,
    "hidden_size": 1280,
    "intermediate_size": 3584,
    "num_blocks": 54,
    "num_attention_heads": 20,
    "num_key_value_heads": 5,
}


def run(*arguments, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "explain.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "120"},
        check=False,
        encoding="utf-8",
    )


def explained(**changes):
    config = ModelConfig(**SHAPE | changes)
    training = explain_training(
        config, 64, micro_batch_size=2, optimizer="adamw", precision="32-true",
        activation_checkpointing=False,
    )  # fmt: skip
    return explain_model(config, 64) | training


def shown(renderable, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_json_is_one_object_of_the_agreed_structure_and_nothing_is_written(tmp_path):
    before = os.times()
    result = run("model=mobilellm_125m", "format=json", folder=tmp_path)
    after = os.times()
    # Processor time: the limit is 4 seconds, whatever else the machine does meanwhile.
    seconds = sum(after[2:4]) - sum(before[2:4])
    assert result.returncode == 0, result.stderr
    one = json.loads(result.stdout)
    assert one["parameters"] == {
        "stored": 124_635_456, "embedding": 18_432_000, "body": 106_203_456,
        "executed": 124_635_456,
    }  # fmt: skip
    flops = one["flops_per_token"]
    assert set(flops) == {"matmul", "attention", "forward", "training"}
    assert flops["training"] == 3 * flops["forward"] == 3 * (flops["matmul"] + flops["attention"])
    assert one["kv_cache_bytes_per_token"] == 23_040
    assert "scaling" not in one
    assert list(tmp_path.iterdir()) == []
    assert seconds < 4


def test_a_sweep_gives_a_row_for_each_model_and_its_deviation(tmp_path):
    result = run(
        "-m", "model=by_budget", "model.budget=125e6", "model.num_blocks=4,30", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "num_blocks=4 " in result.stdout
    assert "124,635,456" in result.stdout
    assert "-0.29%" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_in_json_is_a_line_for_each_model(tmp_path):
    result = run("-m", "model=tiny_deep,tiny_wide", "format=json", folder=tmp_path)
    bodies = [json.loads(line)["parameters"]["body"] for line in result.stdout.splitlines()]
    assert bodies == [1_000_400, 996_112]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model=mobilelm_125m",
            "error: model=mobilelm_125m is not known; use one of mobilellm_125m",
        ),
        ("model.num_block=3", "error: model.num_block is not known; model has num_blocks, "),
        ("format=jsn", "error: format='jsn' must be table or json"),
        ("model.num_key_value_heads=4", "num_attention_heads=9 must be divisible by"),
        ("sequence_length=4096", "error: sequence_length=4096 is longer than max_position_embedd"),
        (
            "scaling.num_gpus=[8,24]",
            "error: tokens_per_step=2097152 must be divisible by num_gpus=24 x sequence_len",
        ),
        ("scaling.num_gpus=0", "error: scaling.num_gpus=0 must be a whole number of at least 1"),
        ("micro_batch_size=0", "error: micro_batch_size=0 must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_2(tmp_path, override, message):
    result = run(override, folder=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_names_the_models_and_the_keys(tmp_path):
    result = run("--help", folder=tmp_path)
    assert result.returncode == 0
    assert "mobilellm_125m" in result.stdout
    assert "flops_per_second" in result.stdout


def test_the_table_of_one_model_shows_its_numbers():
    text = shown(model_table(explained(block_repeats=2)))
    assert "3 blocks run as 6 layers (immediate), width 24, swiglu 40" in text
    assert "6 heads of 8 on 2 for keys and values" in text
    for bits in (4, 8, 16, 32):
        assert f"weights at {bits} bits" in text
    assert "if repeated blocks stay in the CPU cache" in text
    assert "assumed, two CPU cores" in text


def test_a_budget_is_shown_with_its_deviation():
    budget = {"budget": 1000, "match": "body", "unit": "body parameters", "reached": 1010,
              "deviation": 0.01}  # fmt: skip
    assert "+1.00%" in shown(model_table(explained() | {"budget": budget}))
    ladder = shown(ladder_table([explained(), explained() | {"budget": budget}], ["a", "b"]))
    assert "off budget" in ladder
    assert "+1.00%" in ladder


def test_executed_is_a_column_only_where_blocks_are_shared():
    assert "executed" not in shown(ladder_table([explained(), explained(num_blocks=4)]))
    assert "executed" in shown(ladder_table([explained(), explained(block_repeats=2)]))


def test_the_time_forecast_is_work_over_rate():
    training = explain_training(
        ModelConfig(**SHAPE), 64, micro_batch_size=2, max_tokens=1e6, flops_per_second="1e9",
        num_devices=2,
    )["training_time"]  # fmt: skip
    assert training["rate_of"] == "given"
    assert training["seconds"] == pytest.approx(training["flops"] / 1e9 / 2)


@pytest.mark.parametrize("wrong", [{"max_tokens": -5}, {"flops_per_second": 0}])
def test_a_forecast_needs_positive_numbers(wrong):
    with pytest.raises(ValueError, match=r"max_tokens=.* and flops_per_second=.* must be above 0"):
        explain_training(ModelConfig(**SHAPE), 64, micro_batch_size=2, **wrong)


def test_numbers_are_shown_with_three_digits():
    assert [si_text(n) for n in (0, 7, 999, 1000, 23_040, 124_635_456, 2.5e15)] == [
        "0", "7", "999", "1 k", "23 k", "125 M", "2.5 P",
    ]  # fmt: skip
    assert [bytes_text(n) for n in (12, 23_040)] == ["12 B", "23 kB"]
    assert [duration_text(s) for s in (0.5, 90, 7200, 2e5, 4e7)] == [
        "0.5 seconds", "1.5 minutes", "2.0 hours", "2.3 days", "1.3 years",
    ]  # fmt: skip


def test_scaling_is_forecast_where_it_is_asked_for(tmp_path):
    result = run(
        "-m", "model=mobilellm_125m,mobilellm_1b", "scaling.num_gpus=[8,32]", "format=json",
        "trainer=fsdp", "micro_batch_size=4", "+scaling.cluster.overlap=0.5",
        "flops_per_second=1e14", folder=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    small, large = (json.loads(line)["scaling"] for line in result.stdout.splitlines())
    assert (large["strategy"], large["precision"]) == ("fsdp", "bf16-mixed")
    assert large["cluster"]["overlap"] == 0.5
    assert [step["num_gpus"] for step in large["steps"]] == [8, 32]
    expected = forecast_step(
        ModelConfig(**MOBILELLM_1B), 32, sequences_per_gpu=32, sequence_length=2048,
        micro_batches=8, strategy="fsdp", optimizer="muon",
        cluster=Cluster(overlap=0.5, flops_per_second=1e14),
    )  # fmt: skip
    assert large["steps"][1] == asdict(expected)
    assert small["steps"][1]["step_seconds"] < large["steps"][1]["step_seconds"]


def test_scaling_is_shown_below_the_model(tmp_path):
    result = run("model=mobilellm_1b", "scaling.num_gpus=256", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2,097,152 tokens" in result.stdout
    assert "8.01 GB" in result.stdout  # 2 x 255 / 256 x 4 bytes x 1,005,461,760
