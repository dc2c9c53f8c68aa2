"""A run of three stages, killed in each of them and between them, goes on bit for bit."""

import json
import signal

import pytest
from killed_runs import assert_same, has_step, rows, start, the_folder, wait_for

from mobilellm.checkpoint import load_model

STEPS = 30
KEY = "compression"
pytestmark = pytest.mark.slow


@pytest.fixture
def overrides(tiny_overrides, low_rank_stages):
    return [
        *tiny_overrides, *low_rank_stages, f"+{KEY}.first_start=0.1", f"max_tokens={STEPS * 128}",
        "log_interval_steps=1", "callbacks.checkpoint.every_steps=4", "micro_batch_size=2",
        "+callbacks.die._target_=low_rank_recipe.DieAfter",
    ]  # fmt: skip


def with_first_start(overrides, share):
    return [o for o in overrides if "first_start" not in o] + [f"+{KEY}.first_start={share}"]


@pytest.fixture
def alone(overrides, tmp_path):
    assert start(*overrides, "experiment_name=alone").wait(timeout=240) == 0
    return the_folder(tmp_path / "outputs/alone")


def test_killed_in_every_stage(overrides, alone, tmp_path):
    again = [*overrides, "experiment_name=killed"]
    for step in (1, 6, 14, 24):
        process = start(*again, "resume=true")
        wait_for(process, lambda step=step: has_step(tmp_path / "outputs/killed", step))
        process.kill()
        process.wait()
    assert start(*again).wait(timeout=240) == 2, "an unfinished run asks for resume=true"
    assert start(*again, "resume=true").wait(timeout=240) == 0
    assert_same(the_folder(tmp_path / "outputs/killed"), alone)


@pytest.mark.parametrize(("moment", "first_start"), [("plan", 0.1), ("apply", 0.0), ("after", 0.1)])
def test_killed_between_stages(moment, first_start, overrides, tmp_path):
    """Before the plan, in the work on each stage, and when the new checkpoint is written."""
    mine = with_first_start(overrides, first_start)
    assert start(*mine, "experiment_name=alone").wait(timeout=240) == 0
    again = [*mine, "experiment_name=killed", "resume=true"]
    for stage in (1,) if moment == "plan" else (1, 2, 3):
        process = start(*again, KILL_IN=f"{moment}{stage}")
        assert process.wait(timeout=240) == -signal.SIGKILL
    assert start(*again).wait(timeout=240) == 0
    assert_same(the_folder(tmp_path / "outputs/killed"), the_folder(tmp_path / "outputs/alone"))


def test_two_processes_learn_what_one_learns(overrides, tmp_path):
    mine = with_first_start(overrides, 0.1)
    assert start(*mine, "experiment_name=alone").wait(timeout=240) == 0
    rest = [o for o in mine if o != "trainer=cpu"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "experiment_name=two"]
    assert start(*rest, *two).wait(timeout=240) == 0
    summaries = [
        json.loads(
            (the_folder(tmp_path / "outputs" / name) / "summary.json").read_text(encoding="utf-8")
        )
        for name in ("alone", "two")
    ]
    assert {s["status"] for s in summaries} == {"finished"}
    assert summaries[0]["model"] == summaries[1]["model"]
    a, b = (rows(the_folder(tmp_path / "outputs" / name)) for name in ("alone", "two"))
    assert [row["step"] for row in a] == [row["step"] for row in b]
    for one, other in zip(a, b, strict=True):
        for name in ("train/loss", "val/loss", "compression/loss_after", "gradient_norm"):
            assert bool(one[name]) == bool(other[name])
            if one[name]:
                assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-3)


def test_sharded_processes_begin_with_the_compressed_model(overrides, tmp_path):
    mine = [o for o in overrides if "first_start" not in o and o != "trainer=cpu"]
    two = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", f"{KEY}.num_stages=1"]
    assert start(*mine, *two, "experiment_name=two").wait(timeout=240) == 0
    folder = the_folder(tmp_path / "outputs/two")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["model"]["compressed_layers"]) == 6
    assert load_model(folder / "model").config.to_dict() == summary["model"]
    [stage] = summary["compression"]["stages"]
    assert float(rows(folder)[0]["val/loss"]) == pytest.approx(stage["loss_after"], rel=1e-6)
