"""The resources that are requested from SLURM, checked before anything is submitted."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilellm.hydra_app.configuration import compose, config_loader, load
from mobilellm.launchers.slurm.settings import SlurmSettings, common_settings


def settings(*overrides: str) -> SlurmSettings:
    """The settings of conf/hydra/launcher/slurm.yaml with these overrides."""
    from hydra.types import RunMode

    with config_loader() as loader:
        config = load(
            loader, "train", ["hydra/launcher=slurm", *overrides], RunMode.RUN
        )  # fmt: skip
    plain = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(plain, dict)
    del plain["_target_"]
    return SlurmSettings(**plain)


@pytest.mark.parametrize(
    ("overrides", "nodes", "tasks", "gpus"),
    [
        ([], 1, 1, 1),
        (["trainer.devices=8"], 1, 8, 8),
        (["hydra.launcher.gpus_per_node=4"], 1, 4, 4),
        (["trainer=cpu"], 1, 1, 0),
        (["trainer=cpu", "trainer.devices=2"], 1, 2, 0),
        (["trainer=cuda", "trainer.devices=2", "trainer.num_nodes=3"], 3, 2, 2),
    ],
)
def test_tasks_per_node_are_the_devices(overrides, nodes, tasks, gpus):
    asked = settings(*overrides)
    sbatch = asked.sbatch("name", Path("/code"))
    assert (sbatch["ntasks_per_node"], sbatch.get("gpus_per_node", 0)) == (tasks, gpus)
    assert sbatch["nodes"] == nodes


def test_settings_without_the_launcher():
    with pytest.raises(
        ValueError, match=r"launcher.partition is not known; hydra.launcher has preload"
    ):
        compose("train", ["hydra.launcher.partition=gpu"])


def test_threads_are_the_cpus_that_srun_is_told_of():
    sbatch = settings("hydra.launcher.cpus_per_task=6").sbatch("name", Path("/the code"))
    assert "--cpus-per-task=6" in sbatch["srun_args"]
    assert "export OMP_NUM_THREADS=6 MKL_NUM_THREADS=6" in sbatch["setup"]
    assert "export PYTHONPATH='/the code'${PYTHONPATH:+:$PYTHONPATH}" in sbatch["setup"]


def test_memory_is_in_gibibytes():
    sbatch = settings("hydra.launcher.memory_gb=1.5").sbatch("name", Path("/code"))
    assert sbatch["mem"] == "1536M"


@pytest.mark.parametrize("field", ["time_minutes", "nodes", "cpus_per_task", "array_parallelism"])
@pytest.mark.parametrize("value", [0, -1, "two", 1.5, True])
def test_refuses_numbers_below_one(field, value):
    message = rf"hydra.launcher.{field}={value!r} must be a whole number of at least 1"
    with pytest.raises(ValueError, match=message):
        SlurmSettings(**{field: value})


def test_refuses_other_nonsense():
    with pytest.raises(ValueError, match=r"signal='HUP' is not known; use one of USR1, USR2, TERM"):
        SlurmSettings(signal="HUP")
    with pytest.raises(ValueError, match=r"signal_seconds=120 must be less than time_minutes=2"):
        SlurmSettings(time_minutes=2)
    with pytest.raises(ValueError, match=r"memory_gb=0 must be above 0"):
        SlurmSettings(memory_gb=0)


def test_one_array_has_one_shape():
    with pytest.raises(ValueError, match=r"not tasks_per_node 1 and 2; submit a separate sweep"):
        common_settings([SlurmSettings(tasks_per_node=1), SlurmSettings(tasks_per_node=2)])
