"""The folder of one run: its state, and the files that describe it."""

import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobilellm.files import write_text_atomically
from mobilellm.strict_json import to_json

SUMMARY = "summary.json"
CONFIG = "config.yaml"
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
PREVIOUS_CHECKPOINT = "previous.ckpt"
DAMAGED_CHECKPOINT = "damaged.ckpt"
# The state before a schedule's fall began, which a run of a larger budget goes on from.
PLATEAU_CHECKPOINT = "plateau.ckpt"
MODEL = "model"

# What says where or how fast a run happens, not what is trained: values that cannot change the
# result beyond rounding. A run that is continued keeps those it was begun with, unless others are
# given.
NOT_IDENTITY = (
    "output_dir",
    "prepared_dir",
    "experiment_name",
    "resume",
    "logger",
    "log_interval_steps",
    "micro_batch_size",
    "data.dir",
    "data.prepared_dir",
    "data.workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.num_threads",
    "trainer.compile",
    "trainer.activation_checkpointing",
)


logger = logging.getLogger(__name__)


class RunIsBusy(ValueError):
    """Another process trains in the folder."""


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The run's summary.json, or None where the run has not begun.

    Raises:
        ValueError: the file is not JSON.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it to run again") from error


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json atomically."""
    write_text_atomically(folder / SUMMARY, to_json(summary, default=str) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that an unfinished run goes on from, or None; not read yet."""
    paths = (folder / CHECKPOINTS / name for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT))
    return next((path for path in paths if path.exists()), None)


def latest_valid_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint, read as a whole; where it is damaged, the one before, and a warning.

    A damaged `last.ckpt` is renamed to `damaged.ckpt`, so that it never takes the place of the one
    before.

    Raises:
        ValueError: there is no sound one.
    """
    path = last_checkpoint(folder)
    if path is None or (damage := find_damage(path)) is None:
        return path
    before = path.with_name(PREVIOUS_CHECKPOINT)
    if path == before or not before.exists() or find_damage(before) is not None:
        raise ValueError(
            f"checkpoint {path} is damaged ({damage}), and there is no sound one before it; put "
            f"back a copy, or remove {folder / CHECKPOINTS} to train from the start"
        )
    os.replace(path, path.with_name(DAMAGED_CHECKPOINT))
    logger.warning(
        "checkpoint %s is damaged (%s) and now called %s; the run goes on from the one before, %s",
        path, damage, DAMAGED_CHECKPOINT, before.name,
    )  # fmt: skip
    return before


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's file, None where it is as it was written.

    `torch.save` writes a zip archive, in which each record has its CRC-32.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, zlib.error) as error:
        return f"{type(error).__name__}: {error}"
    return None if bad is None else f"{bad} has changed since it was written"


def check_may_start(folder: Path, *, resume: bool) -> None:
    """Refuse to overwrite: a finished run, or an unfinished one where resuming is not wanted.

    Raises:
        ValueError: the run is finished, or begun and `resume` is false.
    """
    summary = read_summary(folder)
    if summary is not None and summary.get("status") == "finished":
        raise ValueError(
            f"{folder} is a finished run and is never overwritten; train it on with a larger "
            f"budget (extend_from={folder} max_tokens=…), change a setting (seed=…), give another "
            "output_dir=…, or remove the folder"
        )
    if last_checkpoint(folder) is not None and not resume:
        raise ValueError(
            f"{folder} is an unfinished run; continue it with resume=true, or remove the folder"
        )


@contextmanager
def locked(folder: Path, timeout: float = 0) -> Iterator[None]:
    """Keep other processes from training in `folder`; a killed one keeps nothing locked.

    Args:
        folder: made where missing.
        timeout: seconds to wait for another process; below 0: as long as it takes.

    Raises:
        RunIsBusy: another process is still training there.
    """
    from filelock import FileLock, Timeout

    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / CHECKPOINTS / ".lock").acquire(timeout=timeout)
    except Timeout as error:
        raise RunIsBusy(
            f"{folder} is being trained by another process; wait for it, or end that process"
        ) from error
    with lock:
        yield


def flat_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as dotted keys and plain values."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flat_config(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def is_identity(key: str) -> bool:
    """Whether the setting with this dotted key may change the result; see `NOT_IDENTITY`."""
    return not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
