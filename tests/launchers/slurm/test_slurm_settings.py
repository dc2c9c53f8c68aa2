"""What is asked of SLURM, refused before anything is submitted; the copy of the code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilellm.hydra_app.configuration import compose, config_loader, load
from mobilellm.launchers.slurm.settings import SlurmSettings, common_settings
from mobilellm.launchers.slurm.snapshot import take_snapshot

ROOT = Path(__file__).parents[3]


def settings(*overrides: str) -> SlurmSettings:
    """As conf/hydra/launcher/slurm.yaml gives them under these overrides."""
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
    with pytest.raises(ValueError, match=r"not tasks_per_node 1 and 2; submit one sweep for each"):
        common_settings([SlurmSettings(tasks_per_node=1), SlurmSettings(tasks_per_node=2)])


def test_without_slurm_it_says_where_to_go_and_asks_for_no_gpu_here(tiny_overrides):
    """A login node needs no GPU for `trainer=cuda`, but it needs sbatch."""
    command = [sys.executable, "scripts/train.py", "-m", "hydra/launcher=slurm", *tiny_overrides,
               "trainer=cuda", "seed=0,1"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=120,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: sbatch is not found, so this is no machine of a SLURM cluster; run the command on "
        "the cluster's login node, or use hydra/launcher=local\n"
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small clone with a change, a new file of code and a corpus that git does not know."""
    folder = tmp_path / "clone"
    files = {
        "mobilellm/__init__.py": "",
        "mobilellm/version.py": '__version__ = "0"\n',
        "mobilellm/provenance.py": (ROOT / "mobilellm/provenance.py").read_text(encoding="utf-8"),
        "mobilellm/launchers/__init__.py": "",
        "mobilellm/launchers/slurm/snapshot.py": (
            ROOT / "mobilellm/launchers/slurm/snapshot.py"
        ).read_text(encoding="utf-8"),
        "conf/train.yaml": "seed: 0\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", folder, *command], check=True)
    (folder / "conf/train.yaml").write_text("seed: 1\n", encoding="utf-8")
    (folder / "conf/new.yaml").write_text("new: 1\n", encoding="utf-8")
    (folder / "corpus.txt").write_text("much text\n", encoding="utf-8")
    return folder


def test_the_copy_is_the_commit_with_its_changes(clone: Path, tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; "
        "from mobilellm.launchers.slurm.snapshot import take_snapshot; "
        "from mobilellm.provenance import git_state; "
        "s = take_snapshot(Path(sys.argv[1])) if len(sys.argv) > 1 else None; "
        "print(s.path if s else git_state())"
    )

    def run(package: Path, *arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        ).stdout.strip()

    copy = Path(run(clone, str(tmp_path / "copies")))
    assert (copy / "conf/train.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    assert (copy / "conf/new.yaml").exists()
    assert not (copy / "corpus.txt").exists()
    assert "+seed: 1" in (copy / "changes.diff").read_text(encoding="utf-8")
    state = json.loads((copy / "snapshot.json").read_text(encoding="utf-8"))
    head = subprocess.check_output(
        ["git", "-C", clone, "rev-parse", "HEAD"], text=True, encoding="utf-8"
    ).strip()
    assert state == {"commit": head, "dirty": True}
    assert Path(run(clone, str(tmp_path / "copies"))) == copy, "the same code was copied twice"
    # What runs from the copy says what it was copied from, wherever the copy lies.
    assert run(copy) == str(state)
    (clone / "conf/train.yaml").write_text("seed: 2\n", encoding="utf-8")
    assert Path(run(clone, str(tmp_path / "copies"))) != copy
    assert (copy / "conf/train.yaml").read_text(encoding="utf-8") == "seed: 1\n"


def test_this_clone_is_copied_whole(tmp_path: Path):
    copy = take_snapshot(tmp_path)
    for name in ("mobilellm/launchers/slurm/launcher.py", "conf/train.yaml", "scripts/train.py"):
        assert (copy.path / name).read_bytes() == (ROOT / name).read_bytes()
