"""W&B and TensorBoard: written where the run is, the same run after a resume."""

import importlib.util
import subprocess

import pytest
from small_run import fit, make_data, make_module

from mobilellm.training.tensorboard_logger import TensorBoardLogger
from mobilellm.training.trainer import TrainerConfig, make_trainer
from mobilellm.training.wandb_logger import WandbLogger


@pytest.fixture
def no_wandb_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def train(logger, steps):
    module = make_module(steps)
    trainer = make_trainer(TrainerConfig(accelerator="cpu"), max_steps=steps, loggers=[logger])
    try:
        trainer.fit(module, datamodule=make_data())
    finally:
        logger.close()
    return module


def offline_runs(folder):
    return sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))


def test_wandb_offline_keeps_its_id_and_trials_do_not_mix(tmp_path, no_wandb_account):
    first = WandbLogger(tmp_path / "sweep/a", group="sweep")
    (tmp_path / "sweep/a").mkdir(parents=True)
    (tmp_path / "sweep/a/config.yaml").write_text(
        "seed: 0\nmodel: {hidden_size: 16}\n", encoding="utf-8"
    )
    train(first, 2)
    again, other = WandbLogger(tmp_path / "sweep/a"), WandbLogger(tmp_path / "sweep/b")
    assert again.version == first.version
    assert again.name == "a"
    run = other.run
    assert run.id == other.version
    other.close()
    assert len(offline_runs(tmp_path / "sweep/a")) == 1
    assert offline_runs(tmp_path / "sweep/a")[0].endswith(first.version)
    run = again.run
    assert run.id == first.version
    assert run.config["model"]["hidden_size"] == 16
    assert run.settings.mode == "offline"
    again.close()
    assert not offline_runs(tmp_path / "sweep/b")[0].endswith(first.version)


def test_the_same_experiment_elsewhere_is_another_wandb_run(tmp_path, no_wandb_account):
    here, there = (WandbLogger(tmp_path / name / "default/0-ab12cd") for name in ("here", "there"))
    assert here.version is None
    ids = [logger.run.id for logger in (here, there)]
    here.close()
    there.close()
    assert len(set(ids)) == 2
    assert ids == [here.version, there.version]


def test_the_end_of_an_offline_run_says_what_to_sync(tmp_path, no_wandb_account, caplog):
    caplog.set_level("INFO")
    logger = WandbLogger(tmp_path / "sweep/a run")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.close()
    [command] = [r.getMessage() for r in caplog.records if "wandb sync" in r.getMessage()]
    pattern = command.removeprefix("W&B: offline; to upload the run: wandb sync ")
    found = subprocess.run(["bash", "-c", f"ls -d {pattern}"], capture_output=True, check=True)
    assert found.stdout.decode().strip().endswith(offline_runs(tmp_path / "sweep/a run")[0])


def test_an_online_run_without_a_key_is_refused_before_work(tiny_run, tmp_path, no_wandb_account):
    with pytest.raises(
        ValueError, match=r"needs a W&B API key \(.*\); run `wandb login`, set"
    ) as e:
        tiny_run("logger=wandb", "logger.wandb.offline=false")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_wandb_refuses_is_one_line(tmp_path, no_wandb_account):
    with pytest.raises(ValueError, match=r"could not start its run .*use logger\.wandb\.off") as e:
        WandbLogger(tmp_path, project="a/b").log_metrics({"loss": 1.0}, step=1)
    assert "\n" not in str(e.value)


def test_a_logger_never_used_starts_no_run(tmp_path):
    WandbLogger(tmp_path).close()
    TensorBoardLogger(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    module = train(TensorBoardLogger(tmp_path), 3)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("val/loss")
    assert [event.step for event in losses] == [0, 3]
    assert losses[-1].value == pytest.approx(module.validation_result.loss)


def test_tensorboard_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package tensorboard, which is not installed; "):
        TensorBoardLogger(tmp_path)


def test_a_run_whose_logger_is_not_installed_is_refused_before_work(
    tiny_run, tmp_path, monkeypatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "tensorboard" else found(name, *a),
    )
    with pytest.raises(ValueError, match="needs the package tensorboard, which is not installed; "):
        tiny_run("logger=tensorboard")
    assert not (tmp_path / "outputs").exists()


def test_several_loggers_at_once(tmp_path):
    module = make_module(2)
    fit(module, make_data(), tmp_path)
    assert module.latest_metrics["tokens"] == 256
