"""Rank variables in the environment cost no run its results."""

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only

from mobilellm.hydra_app.configuration import compose, config_loader, load
from mobilellm.hydra_app.trial import without_hydra
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.train import train


@pytest.mark.parametrize("variables", [
    {"SLURM_PROCID": "3"}, {"RANK": "1"}, {"LOCAL_RANK": "1"}, {"SLURM_NTASKS": "4"},
])  # fmt: skip
def test_a_run_on_one_device_is_complete(tiny_run, tmp_path, monkeypatch, variables, caplog):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # What Lightning makes of them when it is imported.
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    summary = tiny_run("max_tokens=256")
    assert summary["status"] == "finished"
    [folder] = tmp_path.glob("outputs/*/*")
    for name in ("summary.json", "config.yaml", "metrics.csv", "model/model.safetensors"):
        assert (folder / name).exists(), name
    [(name, value)] = variables.items()
    assert f"{name}={value}: ignored, because this run is one process" in caplog.text


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "0"}, {"SLURM_NTASKS": "2"}])
def test_ranks_that_nobody_describes_are_refused(tiny_overrides, tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"=\d in the environment, but neither torchrun nor srun"):
        train(compose("train", [*tiny_overrides, "trainer=ddp", "trainer.devices=2"]))
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize(("launcher", "line"), [("local", "-m"), ("basic", "-m"), ("local", "")])
def test_a_trial_has_one_of_several_gpus(tiny_overrides, monkeypatch, launcher, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    mine = [override for override in tiny_overrides if override != "trainer=cpu"]
    mode = RunMode.MULTIRUN if line else RunMode.RUN
    overrides = [*mine, f"hydra/launcher={launcher}", f"hydra.mode={mode.name}"]
    with config_loader() as loader:
        config = load(loader, "train", overrides, RunMode.RUN)
    HydraConfig.instance().set_config(config)
    if (launcher, line) == ("local", "-m"):
        assert plan_run(without_hydra(config)).samples_per_step == 4
    else:
        with pytest.raises(ValueError, match=r"the 4 windows of a step .* be shared by 3 devices"):
            plan_run(without_hydra(config))
