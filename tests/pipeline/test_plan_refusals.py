"""What a run refuses before it reads data, and how it names what is meant."""

import logging
import re
from pathlib import Path

import pytest

from mobilellm.data.resolved import resolve_data
from mobilellm.hydra_app.configuration import compose
from mobilellm.hydra_app.errors import describe_configuration_error
from mobilellm.pipeline.hydra_job import HydraJob
from mobilellm.pipeline.plan import plan_run


def refusal(*overrides):
    """The line that a run with these overrides ends with."""
    with pytest.raises(Exception) as caught:
        plan_run(compose("train", ["model=debug", "trainer=cpu", "callbacks=none", *overrides]))
    message = describe_configuration_error(caught.value)
    assert message is not None, f"a traceback: {caught.value!r}"
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+lr=3e-3", "lr is not known; here it is optimizer.learning_rate"),
        ("lr=3e-3", "lr is not known; here it is optimizer.learning_rate"),
        ("+batch_size=8", "batch_size is not known; here it is tokens_per_step (windows × "),
        ("num_epochs=3", "num_epochs is not known; here it is epochs"),
        ("epochs=0", "epochs=0.0 must be above 0; null sets no limit"),
        ("+max_iters=3", "max_iters is not known; here it is max_steps"),
        ("ratio=0.5", "ratio is not known; here it is compression=low_rank "),
        ("+nothing_like_it=1", "nothing_like_it is not known; nearest: "),
        ("+optimizer.lr=1", "optimizer: muon has no field 'lr'; use learning_rate"),
        ("optimizer.lr=1", "optimizer.lr is not known; here it is optimizer.learning_rate"),
        ("~seed", "seed is required and cannot be removed; set seed=…"),
        ("~optimizer", "optimizer is required and cannot be removed; choose one with optimizer="),
        ("~schedule", "schedule is required and cannot be removed"),
        ("~trainer", "trainer is required and cannot be removed"),
        ("~model", "model is required and cannot be removed"),
        ("~data", "data is required and cannot be removed"),
        ("~optimizer.learning_rate", "optimizer.learning_rate is required and not given"),
        ("seed=12345678901234567890", "seed=12345678901234567890 must be at most 9,223,372,"),
        ("max_tokens=inf", "max_tokens=inf must be a finite number above 0; null sets no limit"),
        ("max_tokens=1e30", "max_tokens=1e+30 must be at most 1e+15; null sets no limit"),
        ("max_tokens=null max_flops=1e29", "max_tokens="),
        ('optimizer.learning_rate="3e-3"', "optimizer.learning_rate='3e-3' must be a number above "
                                           "0 or auto, not text: leave out the quotes"),
        ("gradient_clip_norm=0", "gradient_clip_norm=0.0 must be above 0; null disables clipping"),
        ("validation_interval_tokens=-1", "validation_interval_tokens=-1.0 must be above 0; null "),
        ("learning_rate_probe_share=-1", "learning_rate_probe_share=-1.0 must be above 0 and at"),
        ("learning_rate_probe_factors=[1,-2]", "learning_rate_probe_factors=[1.0, -2.0] must be"),
        ("log_interval_steps=0", "log_interval_steps=0 must be a whole number of at least 1"),
        ("initialization.std=-1", "initialization: std=-1 must be"),
        ("validation_tokens=10", "validation_tokens=10 must be at least one window, sequence_leng"),
        ("schedule.warmup_fraction=null schedule.warmup_steps=10000 tokens_per_step=4096",
         "schedule.warmup_steps=10000 must be at most the run's 244 steps"),
        ("trainer.cuda_graph=true data.document_mask=true",
         "trainer.cuda_graph=true cannot be combined with data.document_mask=true and "
         "the device cpu; use trainer.cuda_graph=false"),
        ("trainer.cuda_graph=true trainer.devices=2 tokens_per_step=4096",
         "trainer.cuda_graph=true cannot be combined with 2 devices and the device cpu; use"),
        ("trainer.float8=true", "trainer.float8=true needs an NVIDIA GPU of compute capability"),
        ("trainer.float8=true compression=low_rank",
         "trainer.float8=true cannot be combined with compression; use trainer.float8=false"),
        ("+callbacks.mine=3", "callbacks.mine=3 must be null or settings with callbacks.min"),
    ],
)  # fmt: skip
def test_refused_in_one_line_that_names_the_key(override, message):
    assert refusal(*override.split(" ")).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learning_rate_probe_factors=[9]"], "without learning_rate_probe=true; leave it out"),
        (["learning_rate_probe_seed=1000"], "without learning_rate_probe=true; leave it out"),
        (["initialization.std=0.5"], "with init_from="),
        (["initialization={std: 0.5, residual_scaling: true}"], "with init_from="),
    ],
)
def test_settings_of_something_else_are_refused(overrides, message, command, tiny_run_folder):
    start = [f"init_from={tiny_run_folder}"] if "init_from" in message else []
    with pytest.raises(ValueError, match=f"{re.escape(overrides[0])} has no effect {message}"):
        command(*start, *overrides)


def test_the_largest_seed_trains(tiny_run):
    assert tiny_run(f"seed={2**63 - 1}", "max_tokens=256")["status"] == "finished"


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    message = f"output_dir={tmp_path}/file/runs: {tmp_path}/file is a file, not a folder; give"
    assert refusal(f"output_dir={tmp_path}/file/runs").startswith(message)
    assert "output_dir=/proc/runs cannot be written (" in refusal("output_dir=/proc/runs")


def test_home_folders_are_found_in_every_path(tmp_path, monkeypatch, tiny_overrides):
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = [o for o in tiny_overrides if not o.startswith(("output_dir", "prepared_dir"))]
    own = "lightning.pytorch.callbacks.ModelCheckpoint"
    given = ["output_dir=~/runs", "prepared_dir=~/shards", "+callbacks.own.dirpath=~/own"]
    run = plan_run(compose("train", [*kept, f"+callbacks.own._target_={own}", *given]))
    assert run.folder.is_relative_to(tmp_path / "runs")
    assert resolve_data(run.data).folder.is_relative_to(tmp_path / "shards")
    assert run.config["callbacks"]["own"]["dirpath"] == f"{tmp_path}/own"
    assert not Path("~").exists()


def test_a_home_folder_in_init_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refusal("init_from=~/nothing") == (
        f"init_from={tmp_path}/nothing is not a folder; give that of a saved model"
    )


def test_what_was_asked_for_is_printed_before_anything_else(tiny_run, caplog, monkeypatch):
    from mobilellm.pipeline import plan

    caplog.set_level(logging.INFO)
    asked = ("optimizer.learning_rate=3e-3", "max_tokens=256")
    monkeypatch.setattr(plan, "hydra_job", lambda: HydraJob(overrides=asked))
    tiny_run(*asked)
    assert caplog.messages[0] == f"settings: {' '.join(asked)}"
