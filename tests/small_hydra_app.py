"""A small Hydra application with its own configuration, run as a process."""

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

CONF = {
    "train.yaml": """
        defaults:
          - model: small
          - data: text
          - _self_
          - experiment: null

        # Seed of the weights.
        seed: 0
        seconds: 0.0
        output: ${oc.env:APP_OUTPUT}
        sequence_length: ${model.context}
        trainer:
          devices: 1
          accelerator: cpu
        """,
    "model/small.yaml": "_target_: app.Model\nhidden_size: 8\ncontext: 16\n",
    "model/large.yaml": "_target_: app.Model\nhidden_size: 64\ncontext: 16\n",
    "data/text.yaml": "vocab_size: 32\n",
    "data/required.yaml": "train: ???\n",
    "experiment/sweep.yaml": """
        # @package _global_
        defaults:
          - override /hydra/launcher: local
        hydra:
          sweeper:
            params:
              model: small,large
              seed: 0,1
        """,
    "experiment/typo.yaml": "# @package _global_\ndefaults:\n  - override /modle: small\n",
    "hydra/launcher/local.yaml": """
        _target_: mobilellm.launchers.LocalLauncher
        n_jobs: 2
        threads_per_job: 1
        attempts: 1
        preload: []
        """,
}

APP = '''
"""Pretends to train.

Example:
  python app.py seed=2
"""
import json, os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).parent)
from mobilellm.cli.command import Stopped
from mobilellm.hydra_app.command import hydra_command


@dataclass(kw_only=True)
class Model:
    hidden_size: int
    context: int
    head_dim: int = 4

    def __post_init__(self):
        if self.hidden_size % 8:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of 8; use 8")


class Defective:
    def __init__(self):
        raise KeyError("a defect")


def folder_of(cfg):
    return Path(cfg.output) / f"run-{cfg.model.hidden_size}-{cfg.seed}"


def check(cfg):
    from hydra.core.hydra_config import HydraConfig
    if HydraConfig.get().mode.name != "MULTIRUN":
        raise ValueError("checked outside a sweep")
    if cfg.seed == 99:
        raise ValueError("seed=99 is refused; use another")
    return folder_of(cfg)


def train(cfg):
    """Counts to 20 in steps, saving each; goes on from what it saved."""
    from hydra.core.hydra_config import HydraConfig
    folder = folder_of(cfg)
    if (HydraConfig.get().mode.name == "MULTIRUN") != bool({"-m", "--multirun"} & set(sys.argv)):
        raise ValueError("the mode is wrong")
    folder.mkdir(parents=True, exist_ok=True)
    summary, state = folder / "summary.json", folder / "state"
    if cfg.seed == 13:
        raise ValueError("seed=13 brings bad luck; use 14")
    if cfg.seed == 14:
        raise KeyError("a defect")
    if cfg.seed == 16:
        # As Lightning does with Ctrl-C.
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    done = int(state.read_text()) if state.exists() else 0
    print("begins at", done, "threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
    summary.write_text(json.dumps({"status": "running"}))
    with open(folder / "starts", "a") as file:
        file.write(f"{os.getpid()}\\n")
    for step in range(done, 20):
        time.sleep(cfg.seconds / 20)
        state.write_text(str(step + 1))
        if cfg.seed == 15 and step == 5 and done == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if asked:
            summary.write_text(json.dumps({"status": "stopped", "steps": step + 1}))
            raise Stopped(f"stopped after step {step + 1}", signal.SIGTERM)
    summary.write_text(json.dumps({"status": "finished", "steps": 20, "val_loss": 1.5}))
    return {"begun_at": done}


if __name__ == "__main__":
    hydra_command(
        train, "train", description=__doc__, check="app.check", sweep_dir="${output}",
        config_dir=Path(__file__).parent / "conf",
    )
'''


@dataclass(frozen=True)
class App:
    """The application's folder, and how to run it."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def conf(self) -> Path:
        return self.folder / "conf"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "APP_OUTPUT": str(self.output), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, "app.py", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    for name, text in CONF.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    monkeypatch.setenv("APP_OUTPUT", str(tmp_path / "out"))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("app", None)
    return App(tmp_path)
