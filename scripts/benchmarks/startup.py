"""Measures the time from the command to the end of the first step, and its parts.

Run as a program, this module trains one step and writes these times.
"""

import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["model=tiny_deep", "data=stdlib", "max_steps=1", "validation_tokens=2048", "resume=false"]


def measure_startup(*, rounds: int) -> list[dict[str, Any]]:
    """Run `scripts/train.py` on prepared data, in a new process each time."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = f"prepared_dir={folder}/prepared"
        prepare = [sys.executable, "scripts/prepare_data.py", "data=stdlib", prepared]
        subprocess.run(prepare, cwd=ROOT, check=True, capture_output=True)
        found = []
        for number in range(rounds):
            report = Path(folder) / f"{number}.json"
            command = [sys.executable, "-m", "scripts.benchmarks.startup", str(report)]
            overrides = [*TRAIN, prepared, f"output_dir={folder}/{number}"]
            subprocess.run([*command, *overrides], cwd=ROOT, check=True, capture_output=True)
            found.append(json.loads(report.read_text(encoding="utf-8")))
    return [{name: statistics.median(one[name] for one in found) for name in found[0]}]


def main(report: str, overrides: list[str]) -> None:
    """Train, and write the seconds from the start of this process to each stage."""
    import psutil

    began = psutil.Process(os.getpid()).create_time()
    marks = {"seconds_python": time.time() - began}
    before = time.time()
    import torch  # noqa: F401

    marks["seconds_import_torch"] = time.time() - before
    before = time.time()
    import lightning.pytorch  # noqa: F401

    marks["seconds_import_lightning"] = time.time() - before
    from mobilellm.training.module import LanguageModelModule

    _mark(LanguageModelModule, "on_train_start", marks, "until_training", began)
    _mark(LanguageModelModule, "training_step", marks, "until_first_step", began)
    sys.argv = ["scripts/train.py", *overrides]
    try:
        runpy.run_path("scripts/train.py", run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
    imports = sum(seconds for name, seconds in marks.items() if name.startswith("seconds_"))
    ordered = {
        "seconds_to_first_step": marks["until_first_step"],
        **{name: seconds for name, seconds in marks.items() if name.startswith("seconds_")},
        "seconds_configuration_model_and_data": marks["until_training"] - imports,
        "seconds_first_validation_and_step": marks["until_first_step"] - marks["until_training"],
    }
    Path(report).write_text(json.dumps(ordered, allow_nan=False), encoding="utf-8")


def _mark(cls: type, method: str, marks: dict[str, float], name: str, began: float) -> None:
    """Record when a method is first called (`on_train_start`) or first returns."""
    original = getattr(cls, method)

    def marked(self: Any, *arguments: Any, **options: Any) -> Any:
        if method == "on_train_start":
            marks.setdefault(name, time.time() - began)
        result = original(self, *arguments, **options)
        marks.setdefault(name, time.time() - began)
        return result

    setattr(cls, method, marked)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
