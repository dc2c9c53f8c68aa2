"""Runs trials, each in a process of its own, and keeps their outcomes in a file.

A trial that the file holds already is not run again.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.files import write_text_atomically
from mobilellm.strict_json import to_json

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = __package__ or "scripts.benchmarks.time_to_loss"
OURS, ADAMW, HUGGINGFACE, LITGPT = "ours", "adamw", "huggingface", "litgpt"

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """What is trained. Together with the settings of the file it determines the outcome."""

    contender: str
    max_tokens: int
    seed: int
    tokens_per_step: int | None = None
    """None if the recipe sets it."""
    learning_rate: float | None = None
    """None if the recipe sets it."""
    overrides: tuple[str, ...] = ()
    """Of this project's runs: what is set in addition to the settings of all."""
    measurement: str = ""
    """Names the rounds in which the trial was timed beside others; empty when tuning."""

    def key(self) -> dict[str, Any]:
        """The fields as plain data."""
        return vars(self) | {"overrides": list(self.overrides)}


class Trials:
    """Trials and their outcomes.

    Args:
        path: the JSON file.
        settings: what is the same in all trials, as plain data; see `child.py`.

    Raises:
        ValueError: the file holds trials with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Read the file, if there is one."""
        self.path, self.settings = path, dict(settings)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        differing = [
            f"{name}={value!r} (now {self.settings.get(name)!r})"
            for name, value in known.get("settings", {}).items()
            if value != self.settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"{path} holds trials with other settings: {'; '.join(differing)}; use another "
                "--out, or the settings of the file"
            )
        self.done: list[dict[str, Any]] = known.get("trials", [])
        self.results: dict[str, Any] = known.get("results", {})

    def outcome(self, trial: Trial, corpus: Path) -> Outcome:
        """Run the trial, or return its outcome if it has been run.

        Raises:
            RuntimeError: the process failed, or trained another number of parameters.
        """
        for one in self.done:
            if one["trial"] == trial.key():
                return one["outcome"]
        outcome = run_in_process(trial, self.settings, corpus)
        expected = self.settings["parameters"]
        if outcome["loss"] is not None and outcome["parameters"] != expected:
            raise RuntimeError(
                f"{trial.contender} trained {outcome['parameters']} parameters, not {expected}"
            )
        self.done.append({"trial": trial.key(), "outcome": outcome})
        self.write()
        return outcome

    def write(self) -> None:
        """Write the file atomically."""
        from mobilellm.provenance import device_name

        content = {
            "settings": self.settings,
            "device": device_name("cpu"),
            "cores": os.cpu_count(),
            "results": self.results,
            "trials": self.done,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.path, to_json(content) + "\n")


def python_of(contender: str) -> str | None:
    """The Python that runs a contender; None if it is not set."""
    if contender == LITGPT:
        return os.environ.get("LITGPT_PYTHON") or None
    if contender == HUGGINGFACE:
        return os.environ.get("HUGGINGFACE_PYTHON") or None
    return sys.executable


def run_in_process(trial: Trial, settings: Mapping[str, Any], corpus: Path) -> Outcome:
    """Run a trial in a new process.

    Raises:
        RuntimeError: the process failed.
    """
    module = "own" if trial.contender in (OURS, ADAMW) else trial.contender
    given = dict(settings) | trial.key() | {"corpus": str(corpus), "started_at": time.time()}
    given["overrides"] = [
        *settings["overrides"],
        *trial.overrides,
        f"max_tokens={trial.max_tokens}",
        f"seed={trial.seed}",
        f"prepared_dir={settings['prepared_dir']}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "settings.json", Path(folder) / "outcome.json"
        source.write_text(to_json(given), encoding="utf-8")
        python = python_of(trial.contender)
        command = [str(python), "-m", f"{PACKAGE}.{module}_trial", str(source), str(target)]
        environment = os.environ | {"OMP_NUM_THREADS": str(settings["threads"])}
        if not trial.measurement:
            environment["TORCHDYNAMO_DISABLE"] = "1"
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if ended.returncode or not target.exists():
            last = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-15:])
            raise RuntimeError(f"a trial of {trial.contender} failed: {trial.key()}\n{last}")
        return json.loads(target.read_text(encoding="utf-8"))
