"""Save a checkpoint atomically, read it, and check its model configuration."""

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

# Fields of the configuration that may differ: they change neither the weights nor the training.
_MAY_DIFFER = ("eos_token_id", "bos_token_id")


def save_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Save to a temporary file, flush it to disk, read it back, and move it to `path`.

    The former `last.ckpt` is kept as `previous.ckpt`. At least one of the two files is complete at
    any moment.

    Raises:
        OSError: the file could not be written, with the errno of the cause; the temporary file is
            deleted, and all other files are unchanged.
    """
    try:
        with atomic_write(path) as temporary:
            # Unbuffered, so that a full disk raises in write() and not in close().
            with temporary.open("wb", buffering=0) as file:
                torch.save(checkpoint, file)
                os.fsync(file.fileno())
                _drop_from_page_cache(file.fileno())
            if (damage := find_damage(temporary)) is not None:
                raise OSError(errno.EIO, f"it was damaged when it was read back ({damage})")
            if path.name == LAST_CHECKPOINT and path.exists():
                link_or_copy(path, path.with_name(PREVIOUS_CHECKPOINT))
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        kept = f"the former {path.name} is kept" if path.exists() else f"no {path.name} exists"
        raise OSError(
            cause.errno if cause else None,
            f"checkpoint {path} was not written: {cause.strerror if cause else error}; {kept}; "
            "free space and start the same command again with resume=true",
        ) from error


def read_checkpoint(path: Path, *, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`, which runs no code.

    Args:
        path: an intact file.
        map_location: as for `torch.load`.
        mmap: read tensors only when they are used.
    """
    needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if any(name.startswith("torchao.") for name in needed):
        # With the import, torch knows the tensors in which AdamW of 8 bits keeps its moments.
        import torchao.optim  # noqa: F401
    return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy, atomically.

    A link is enough, because `source` is later replaced as a file and never modified.
    """
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _drop_from_page_cache(descriptor: int) -> None:
    """Drop the file from the page cache if the system can, so that reading it tests the disk."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def check_same_model(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the model configuration of the run that loads it.

    Raises:
        ValueError: they differ; the message has both values of each field, and for compressed
            layers the number of differences and the first one.
    """
    names = [
        name
        for name in {**saved, **current}
        if name not in _MAY_DIFFER and saved.get(name) != current.get(name)
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
            "; resume with the model of the checkpoint, or start a new run"
        )


def _layers_difference(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Describe the differences: `compressed_layers differ in 12 matrices, e.g. head: …`."""
    before, now = (dict(v.get("compressed_layers") or {}) for v in (saved, current))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    shapes = [
        str(parse_layer_shape(layers[names[0]])) if names[0] in layers else "dense"
        for layers in (before, now)
    ]
    matrices = "1 matrix" if len(names) == 1 else f"{len(names)} matrices"
    return f"compressed_layers differ in {matrices}, e.g. {names[0]}: {shapes[0]}, now {shapes[1]}"


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError among `error` and its causes, because torch.save wraps it; None if none is."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
