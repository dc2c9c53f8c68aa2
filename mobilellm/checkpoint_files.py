"""The checkpoint files of a run: their names, and checks whether they are intact."""

import logging
import os
import zipfile
import zlib
from pathlib import Path

CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
PREVIOUS_CHECKPOINT = "previous.ckpt"
DAMAGED_CHECKPOINT = "damaged.ckpt"
# The state before the learning rate began to decay, from which `extend_from` continues.
PLATEAU_CHECKPOINT = "plateau.ckpt"

logger = logging.getLogger(__name__)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which an unfinished run resumes; None if there is none.

    The file is not read; `latest_valid_checkpoint` does that.
    """
    paths = (folder / CHECKPOINTS / name for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT))
    return next((path for path in paths if path.exists()), None)


def latest_valid_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint whose file is intact; None if there is no checkpoint.

    If `last.ckpt` is damaged, it is renamed to `damaged.ckpt` with a warning, and `previous.ckpt`
    is returned. Without the renaming, the next save would replace `previous.ckpt` by the damaged
    file.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged.
    """
    path = last_checkpoint(folder)
    if path is None or (damage := find_damage(path)) is None:
        return path
    before = path.with_name(PREVIOUS_CHECKPOINT)
    if path == before or not before.exists() or find_damage(before) is not None:
        raise ValueError(
            f"checkpoint {path} is damaged ({damage}), and there is no valid one before it; "
            f"restore a copy, or remove {folder / CHECKPOINTS} to train from the start"
        )
    os.replace(path, path.with_name(DAMAGED_CHECKPOINT))
    logger.warning(
        "checkpoint %s is damaged (%s) and was renamed to %s; the run resumes from %s",
        path, damage, DAMAGED_CHECKPOINT, before.name,
    )  # fmt: skip
    return before


def find_damage(path: Path) -> str | None:
    """Describe what is wrong with a checkpoint file; None if it is intact.

    `torch.save` writes a zip archive in which each record has a CRC-32 checksum.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, zlib.error) as error:
        return f"{type(error).__name__}: {error}"
    return None if bad is None else f"{bad} has changed since it was written"
