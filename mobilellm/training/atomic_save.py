"""Saving a checkpoint as a whole or not at all, and checking one before it is used."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mobilellm.checkpoint_files import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, find_damage
from mobilellm.files import atomic_write
from mobilellm.layers import parse_layer_shape

# What a text begins and ends with changes no weight and no step.
_NO_WEIGHTS = ("eos_token_id", "bos_token_id")


def save_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Save to a temporary file, flush it to disk, read it back, and put it in the place of `path`.

    `last.ckpt` from before stays beside it as `previous.ckpt`. At every moment one of the two is
    whole, and until the new file is, both are.

    Raises:
        OSError: with the cause's errno; the temporary file is gone and all others as before.
    """
    try:
        with atomic_write(path) as temporary:
            # Unbuffered, so that a full disk is met in write() and not in close().
            with temporary.open("wb", buffering=0) as file:
                torch.save(checkpoint, file)
                os.fsync(file.fileno())
                _forget_cached(file.fileno())
            if (damage := find_damage(temporary)) is not None:
                raise OSError(errno.EIO, f"read back, it is damaged ({damage})")
            if path.name == LAST_CHECKPOINT and path.exists():
                link_or_copy(path, path.with_name(PREVIOUS_CHECKPOINT))
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        kept = f"{path.name} from before is kept" if path.exists() else "there is none before it"
        raise OSError(
            cause.errno if cause else None,
            f"checkpoint {path} was not written: {cause.strerror if cause else error}; {kept}; "
            "free space and start the same command again with resume=true",
        ) from error


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name in one step: `source` is later replaced, never changed."""
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _forget_cached(descriptor: int) -> None:
    """Let the file be read from the disk and not from memory, where the system can."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def check_same_model(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Compare the model configurations of a checkpoint and of the run that is to load it.

    Raises:
        ValueError: they differ; each field with both values, of compressed layers the first.
    """
    names = [
        name
        for name in {**saved, **current}
        if name not in _NO_WEIGHTS and saved.get(name) != current.get(name)
    ]
    if names:
        differences = [
            _layers_difference(saved, current)
            if name == "compressed_layers"
            else f"{name}={saved.get(name)}, now {current.get(name)}"
            for name in names
        ]
        raise ValueError(
            f"the checkpoint holds another model: {', '.join(differences)}"
            "; resume with the model it was made with, or start a new run"
        )


def _layers_difference(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """`compressed_layers differ in 12 matrices, e.g. head: dense, now 5 kept`."""
    before, now = (dict(v.get("compressed_layers") or {}) for v in (saved, current))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    shapes = [
        str(parse_layer_shape(layers[names[0]])) if names[0] in layers else "dense"
        for layers in (before, now)
    ]
    matrices = "1 matrix" if len(names) == 1 else f"{len(names)} matrices"
    return f"compressed_layers differ in {matrices}, e.g. {names[0]}: {shapes[0]}, now {shapes[1]}"


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError that `error` is or was caused by: torch.save wraps it."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
