"""Reads run folders: finished runs, and those that are left out, with the reason."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.models.config import ModelConfig
from mobilellm.recorded_config import TARGET, class_name, to_current_form
from mobilellm.report.curves import Curve, read_curve
from mobilellm.run_folder import CONFIG, METRICS, SUMMARY, folders_with, read_summary

PROBES = "probes"
"""Folders of this name contain learning-rate probes: shorter runs that are never compared."""

NUMBERS = ("tokens", "steps", "sequence_length", "tokens_per_step", "val_loss")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run."""

    folder: Path
    seed: int
    model: ModelConfig
    val_loss: float
    """Final validation loss in nats per token."""
    val_bits_per_byte: float | None
    """Final validation loss in bits per byte of text; None if the tokenizer is unknown."""
    tokens: int
    """Training tokens seen."""
    steps: int
    sequence_length: int
    tokens_per_step: int
    parameters: Mapping[str, int]
    """`stored`, `embedding`, `body`, `executed`."""
    flops_per_token: Mapping[str, float]
    """`matmul`, `attention`, `forward`, `training`."""
    summary: Mapping[str, Any]
    """The contents of summary.json."""
    config: Mapping[str, Any]
    """The contents of config.yaml; empty if there is none."""
    curve: Curve

    def fact(self, path: str) -> Any:
        """Return a value of summary.json by dotted path, e.g. `versions.torch`; None if absent."""
        return _value_at(self.summary, path)

    def setting(self, path: str) -> Any:
        """Return a value of config.yaml by dotted path; None if absent."""
        return _value_at(self.config, path)

    @property
    def optimizer(self) -> str | None:
        """The optimizer with its settings except the learning rate: `adamw weight_decay=0.1`."""
        value = self.fact("optimizer")
        if not isinstance(value, Mapping):
            return None if value is None else str(value)
        name = class_name(value.get(TARGET, ""))
        settings = [
            f"{key}={setting}"
            for key, setting in sorted(value.items())
            if not key.startswith("_") and key != "learning_rate"
        ]
        return " ".join([name, *settings]).strip()

    def number(self, path: str) -> float | None:
        """Return a value like `fact`, but None for anything except a finite number."""
        return number_or_none(self.fact(path))


def _value_at(tree: Mapping[str, Any], path: str) -> Any:
    value: Any = tree
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


@dataclass(frozen=True)
class LeftOut:
    """A run that is not compared."""

    folder: Path
    status: str
    """`running`, `stopped`, `failed`, `not begun`, `unreadable`, `diverged` or `duplicate`."""
    reason: str


@dataclass(frozen=True)
class RunSet:
    """The runs that were found in the given folders."""

    finished: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]
    num_probes: int
    """Number of learning-rate probes that were skipped."""


def read_runs(paths: Sequence[Path | str], *, may_be_empty: bool = False) -> RunSet:
    """Read every run at or below the given folders.

    A run that is found below several of them is read once.

    Args:
        paths: run or sweep folders, or a run's summary.json, config.yaml or metrics.csv.
        may_be_empty: whether it is allowed that no run is finished.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a path is a file that is not a run's own, no run was found, or none is finished.
    """
    finished, left_out, num_probes = [], [], 0
    for root, folder in _run_folders(paths):
        if PROBES in folder.relative_to(root).parts:
            num_probes += 1
            continue
        run = _read_run(folder)
        (finished if isinstance(run, Run) else left_out).append(run)
    given = ", ".join(str(path) for path in paths)
    if not finished and may_be_empty:
        return RunSet((), tuple(left_out), num_probes)
    if not finished and not left_out:
        found = f" ({num_probes} learning-rate probes only)" if num_probes else ""
        raise ValueError(
            f"no run found in {given or 'no folder'}{found}; give run folders (they contain "
            f"{SUMMARY}), or the folder of a sweep, e.g. outputs/depth_vs_width"
        )
    if not finished:
        states = ", ".join(f"{run.folder.name}: {run.status}" for run in left_out[:5])
        raise ValueError(
            f"none of the {len(left_out)} runs in {given} is finished ({states}"
            f"{', …' if len(left_out) > 5 else ''}); continue them with resume=true"
        )
    return RunSet(tuple(finished), tuple(left_out), num_probes)


def given_folder(path: Path | str) -> Path:
    """The folder that is given, or that of a run if one of its own files is given.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is another file.
    """
    path, remedy = Path(path), "give a run or sweep folder, e.g. outputs/depth_vs_width"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    if path.is_dir():
        return path
    if path.name not in (SUMMARY, CONFIG, METRICS):
        raise ValueError(f"{path} is a file; {remedy}")
    return path.parent


def _run_folders(paths: Sequence[Path | str]) -> Iterator[tuple[Path, Path]]:
    """(given folder, run folder below it), each run folder once, in order of name."""
    seen: set[Path] = set()
    for root in map(given_folder, paths):
        for folder in folders_with(SUMMARY, CONFIG, below=root):
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield root, folder


def _read_run(folder: Path) -> Run | LeftOut:
    try:
        summary = read_summary(folder)
        if summary is None:
            return LeftOut(folder, "not begun", f"it has no {SUMMARY}; start it again")
        status = summary.get("status")
        if status != "finished":
            return LeftOut(folder, str(status), _unfinished_reason(summary))
        if not _is_finite(summary.get("val_loss")):
            return LeftOut(folder, "diverged", f"val_loss={summary.get('val_loss')} is not finite")
        return _finished_run(folder, summary)
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = f"{error} is missing in {SUMMARY}" if isinstance(error, KeyError) else str(error)
        return LeftOut(folder, "unreadable", reason)


def _finished_run(folder: Path, summary: Mapping[str, Any]) -> Run:
    numbers = {name: _required_number(summary, name) for name in NUMBERS}
    bits: Any = summary.get("val_bits_per_byte")
    return Run(
        folder=folder,
        seed=int(_required_number(summary, "seed")),
        model=ModelConfig.from_dict(summary["model"]),
        val_loss=float(numbers["val_loss"]),
        val_bits_per_byte=float(bits) if _is_finite(bits) else None,
        tokens=int(numbers["tokens"]),
        steps=int(numbers["steps"]),
        sequence_length=int(numbers["sequence_length"]),
        tokens_per_step=int(numbers["tokens_per_step"]),
        parameters={key: int(summary["parameters"][key]) for key in _COUNTS},
        flops_per_token={key: float(summary["flops_per_token"][key]) for key in _FLOPS},
        summary=summary,
        config=_read_config(folder / CONFIG),
        curve=read_curve(folder / METRICS),
    )


_COUNTS = ("stored", "embedding", "body", "executed")
_FLOPS = ("matmul", "attention", "forward", "training")


def _read_config(path: Path) -> Mapping[str, Any]:
    import yaml

    if not path.exists():
        return {}
    try:
        # libyaml is ten times as fast; not every build of PyYAML has it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    return to_current_form(config) if isinstance(config, Mapping) else {}


def _unfinished_reason(summary: Mapping[str, Any]) -> str:
    if summary.get("status") == "failed":
        return (str(summary.get("error") or "no error was recorded").splitlines() or [""])[0]
    reached, wanted = summary.get("tokens"), summary.get("max_tokens")
    share = f"at {reached / wanted:.0%} of its tokens; " if reached and wanted else ""
    if summary.get("status") == "running":
        return f"{share}it is still running, or was killed: continue it with resume=true"
    return f"{share}continue it with resume=true"


def _required_number(summary: Mapping[str, Any], name: str) -> float:
    value = summary[name]
    if not _is_finite(value):
        raise ValueError(f"{name}={value!r} in {SUMMARY} must be a number; run it again")
    return value


def number_or_none(value: Any) -> float | None:
    """Return a finite number as float; None for anything else."""
    return float(value) if _is_finite(value) else None


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
