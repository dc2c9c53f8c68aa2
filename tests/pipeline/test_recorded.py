"""A run that is continued goes on with the settings it was begun with, and with those given now."""

import contextlib
import json
import logging

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mobilellm.cli.command import Stopped
from mobilellm.hydra_app.configuration import compose, config_loader
from mobilellm.pipeline.plan import plan_run

STOP = ["+callbacks.stop._target_=stopping.StopAt", "+callbacks.stop.step=4"]


def the_folder(tmp_path):
    [summary] = tmp_path.glob("outputs/default/*/summary.json")
    return summary.parent


def config_of(folder):
    return OmegaConf.load(folder / "config.yaml")


def test_what_the_out_of_memory_message_advises_continues_the_run(command, tmp_path, caplog):
    with pytest.raises(Stopped):
        command("micro_batch_size=4", "callbacks.checkpoint.every_seconds=77", *STOP)
    folder = the_folder(tmp_path)
    before = (folder / "metrics.csv").read_text(encoding="utf-8")
    with caplog.at_level(logging.INFO):
        summary = command(
            "micro_batch_size=1", "trainer.activation_checkpointing=true", "resume=true"
        )
    assert the_folder(tmp_path) == folder
    assert (summary["status"], summary["steps"], summary["micro_batch_size"]) == ("finished", 12, 1)
    assert (folder / "metrics.csv").read_text(encoding="utf-8").startswith(before)
    said = caplog.text
    assert f"{folder}: continues with micro_batch_size=1 (before: 4)" in said
    assert "continues with trainer.activation_checkpointing=True (before: False)" in said
    assert "keeps callbacks.checkpoint.every_seconds=77, with which it was started" in said
    config = config_of(folder)
    assert (config.micro_batch_size, config.trainer.activation_checkpointing) == (1, True)
    assert config.callbacks.checkpoint.every_seconds == 77


def test_recorded_settings_stay_where_others_are_not_given(command, tmp_path, tiny_overrides):
    with pytest.raises(Stopped):
        command("micro_batch_size=2", "trainer.num_threads=2", *STOP)
    kept = [o for o in tiny_overrides if not o.startswith(("trainer.num_threads", "prepared_dir"))]
    summary = command("resume=true", kept=kept)
    assert (summary["status"], summary["micro_batch_size"], summary["threads"]) == (
        "finished", 2, 2
    )  # fmt: skip


def test_nothing_to_resume_is_said(command, tmp_path, caplog):
    with pytest.raises(Stopped):
        command(*STOP)
    unfinished = the_folder(tmp_path).name
    with caplog.at_level(logging.INFO):
        command("seed=1", "resume=true")
    assert "has no checkpoint, the run starts from the beginning" in caplog.text
    assert f"the unfinished run {unfinished} differs in seed=1 (there 0)" in caplog.text


def test_a_larger_budget_names_the_run_that_it_could_extend(command, tmp_path, caplog):
    command()
    folder = the_folder(tmp_path)
    with caplog.at_level(logging.INFO):
        command("max_tokens=2048", "seed=1")
    assert "extend_from" not in caplog.text
    with caplog.at_level(logging.INFO):
        command("max_tokens=2048", "compression=low_rank", "compression.calibration_tokens=256")
    assert "extend_from" not in caplog.text
    with caplog.at_level(logging.INFO):
        command("max_tokens=2048")
    assert f"{folder} is the same run, finished at 1,536 tokens; this one starts" in caplog.text
    assert f"extend_from={folder} with the larger budget" in caplog.text


def test_a_sweep_names_its_runs_by_what_varies(tiny_overrides, tmp_path):
    from mobilellm.hydra_app.sweep_check import check_sweep

    overrides = [*tiny_overrides, "max_tokens=2e3,3e3", "seed=0,1", "hydra.mode=MULTIRUN"]
    with config_loader() as loader:
        trials = check_sweep(loader, "train", overrides, lambda cfg: plan_run(cfg).folder)
    assert [trial.name for trial in trials] == [
        f"max_tokens={tokens} seed={seed}" for tokens in ("2e3", "3e3") for seed in (0, 1)
    ]
    assert [trial.folder.name.rpartition("-")[0] for trial in trials] == [
        f"max_tokens-{tokens}_seed-{seed}" for tokens in ("2e3", "3e3") for seed in (0, 1)
    ]
    # Alone the same run is found under the sweep's name.
    alone = compose("train", [*tiny_overrides, "max_tokens=2000", "seed=1"])
    trials[1].folder.mkdir(parents=True)
    HydraConfig.instance().cfg = None
    assert plan_run(alone).folder == trials[1].folder


def test_a_run_by_steps_says_so(tiny_run, tmp_path):
    """For `status.py`, which measures progress by the limit that ends the run."""
    with contextlib.suppress(ValueError):
        tiny_run("max_tokens=1e6", "max_steps=3")
    summary = json.loads((the_folder(tmp_path) / "summary.json").read_text(encoding="utf-8"))
    assert (summary["max_steps"], summary["steps"]) == (3, 3)
