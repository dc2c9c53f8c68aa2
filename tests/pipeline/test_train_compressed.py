"""Runs that compress their model, in one process."""

import csv
import json

import pytest
import torch
from command_process import run_command

from mobilellm.checkpoint import load_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.models import ModelConfig
from mobilellm.pipeline.train import train

KEY = "compression"
LAYERS = ["gate_proj", "up_proj", "down_proj"]


def _folder(tmp_path, experiment="default"):
    [summary] = tmp_path.glob(f"outputs/{experiment}/*/summary.json")
    return summary.parent


def _rows(folder):
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _feed_forward(*blocks):
    return {f"blocks.{b}.feed_forward.{name}" for b in blocks for name in LAYERS}


def test_three_stages_leave_one_curve_and_a_report(tiny_run, low_rank_stages, tmp_path):
    summary = tiny_run(*low_rank_stages)
    folder = _folder(tmp_path)
    config = ModelConfig.from_dict(summary["model"])
    assert {name for name, _ in config.compressed_layers} == _feed_forward(0, 1)
    model = load_model(folder / "model")
    assert model.config == config
    stored = sum(p.numel() for p in model.parameters())
    assert summary["parameters"]["stored"] == stored
    report = json.loads((folder / "compression/report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(summary["compression"]))
    stages = report["stages"]
    assert [s["step"] for s in stages] == [0, 4, 8]
    assert [len(s["layers"]) for s in stages] == [2, 2, 2]
    assert stages[-1]["parameters_after"] == stored
    assert stages[0]["parameters_before"] > stages[0]["parameters_after"]
    assert stages[0]["parameters_after"] == stages[1]["parameters_before"]
    assert stages[-1]["loss_recovered"] == summary["val_loss"]
    for stage in stages:
        assert stage["loss_after"] != stage["loss_before"]
        assert all(0 < layer["relative_error"] < 1 for layer in stage["layers"].values())
    rows = _rows(folder)
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps)), "one row a step"
    begun = {int(r["step"]): r for r in rows if r["compression/stage"]}
    assert sorted(begun) == [0, 4, 8]
    for stage in stages:
        row = begun[stage["step"]]
        assert float(row["compression/loss_before"]) == stage["loss_before"]
        assert float(row["compression/loss_after"]) == stage["loss_after"]
        assert float(row["parameters/stored"]) == stage["parameters_after"]
    for step in (4, 8):
        # Validation ends a stage, on the same windows.
        assert float(begun[step]["val/loss"]) == pytest.approx(
            float(begun[step]["compression/loss_before"]), rel=1e-6
        )


def test_at_once_the_first_step_is_of_the_compressed_model(tiny_run, low_rank_stages, tmp_path):
    summary = tiny_run(*low_rank_stages, f"{KEY}.num_stages=1")
    [stage] = summary["compression"]["stages"]
    assert len(stage["layers"]) == 6
    start = float(_rows(_folder(tmp_path))[0]["val/loss"])
    assert start == pytest.approx(stage["loss_after"], rel=1e-6)
    state = torch.load(_folder(tmp_path) / "checkpoints/last.ckpt", weights_only=True)
    assert state["model_config"] == summary["model"]


def test_stages_with_other_choices(tiny_run, low_rank_stages):
    summary = tiny_run(
        *low_rank_stages, "optimizer=muon", "micro_batch_size=2",
        "trainer.activation_checkpointing=true",
    )  # fmt: skip
    assert (summary["status"], summary["steps"], summary["tokens"]) == ("finished", 12, 1536)
    assert len(summary["model"]["compressed_layers"]) == 6


def test_no_callbacks_cannot_switch_the_stages_off(tiny_overrides, low_rank_stages):
    overrides = [o for o in tiny_overrides if not o.startswith("callbacks.")]
    summary = train(compose("train", [*overrides, *low_rank_stages, "callbacks=none"]))
    assert summary["status"] == "finished"
    assert [stage["step"] for stage in summary["compression"]["stages"]] == [0, 4, 8]


def test_the_lowest_loss_survives_the_stages(tiny_run, low_rank_stages, tmp_path):
    tiny_run(*low_rank_stages, f"+{KEY}.first_start=0.3")
    folder = _folder(tmp_path)
    lowest = min(float(row["val/loss"]) for row in _rows(folder)[1:] if row["val/loss"])
    callbacks = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert callbacks["CheckpointCallback"]["best_loss"] == lowest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([f"+{KEY}.layers=[nothing.*]"], "layers='nothing"),
        ([f"{KEY}.num_stages=7"], "num_stages=7 exceeds the number of layers"),
        ([f"+{KEY}.first_start=0.9", f"+{KEY}.recovery_share=0.2"],
         "compression: the last of num_stages=3 begins at step 16, but the run ends at step 12"),
        ([f"{KEY}.num_stages=2",
          f"+{KEY}.groups=[[blocks.*.up_proj,blocks.0.*],[blocks.0.feed_forward.up_proj]]"],
         "blocks.0.feed_forward.up_proj is in stage 1 and in stage 2"),
        ([f"{KEY}.num_stages=1", f"+{KEY}.groups=[[blocks.0.*]]"], "groups does not contain blo"),
        (["trainer.strategy=fsdp"], "trainer=fsdp does not support compression during training"),
        (["max_seconds=60"], "max_seconds=60.* could end the run before its last stage"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_any_work(
    changes, message, tiny_overrides, low_rank_stages, tmp_path
):
    with pytest.raises(ValueError, match=message):
        train(compose("train", [*tiny_overrides, *low_rank_stages, *changes]))
    assert not list(tmp_path.glob("outputs/*/*/*"))


def test_the_command_refuses_with_exit_code_2(tiny_overrides, low_rank_stages, tmp_path):
    done = run_command("train", *tiny_overrides, *low_rank_stages, f"+{KEY}.layers=[nothing.*]")
    assert done.returncode == 2
    assert "nothing.*" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("outputs/*/*/*"))
