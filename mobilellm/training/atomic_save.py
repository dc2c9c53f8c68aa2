"""Saving a checkpoint as a whole or not at all, and checking one before it is used."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mobilellm.compression.shapes import parse_layer_shape


def write_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Save to a temporary file, flush it to disk and put it in the place of `path`.

    Raises:
        OSError: with the cause's errno; the temporary file is gone and `path` as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        # Unbuffered, so that a full disk is met in write() and not in close().
        with temporary.open("wb", buffering=0) as file:
            torch.save(checkpoint, file)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        kept = f"{path.name} from before is kept" if path.exists() else "there is none before it"
        raise OSError(
            cause.errno if cause else None,
            f"checkpoint {path} was not written: {cause.strerror if cause else error}; {kept}; "
            "free space and start the same command again with resume=true",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_same_model(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Compare the model configurations of a checkpoint and of the run that is to load it.

    Raises:
        ValueError: they differ; each field with both values, of compressed layers the first.
    """
    names = [name for name in {**saved, **current} if saved.get(name) != current.get(name)]
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
