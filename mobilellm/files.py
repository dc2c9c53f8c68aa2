"""Writes files atomically, locks them, and diagnoses files that cannot be read."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobilellm.units import bytes_text

Buffer = bytes | memoryview | Any

TOKENIZER_FILE = "tokenizer.model"
"""Name of a SentencePiece tokenizer in a model folder and in a folder of prepared data."""
TOKENIZER_JSON = "tokenizer.json"
"""Name of a tokenizer in Hugging Face's format, in the same folders."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Replace a file atomically: readers see the old file or the complete new one.

    The body of the `with` statement writes to the temporary path that it is given, in the same
    folder. If the body ends without an exception, the temporary file is flushed to disk, gets the
    permissions of an ordinary new file, and is renamed to `path`; otherwise it is deleted, and
    `path` is unchanged. A process that is killed leaves the temporary file behind
    (`remove_temporary_files`).

    Args:
        path: replaced if it exists; missing parent folders are created.

    Raises:
        OSError: the file could not be written; `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write the same file apart.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors creates files that only their owner can read
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":
            _flush(path.parent)  # the rename itself must survive a power failure
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder with all its files, or none.

    The body of the `with` statement writes to the temporary folder that it is given, beside `path`.
    If the body ends without an exception, that folder is renamed to `path`; otherwise it is
    deleted. A process that is killed leaves the temporary folder behind.

    Args:
        path: does not exist, or is an empty folder; missing parent folders are created.

    Raises:
        OSError: `path` is in use, or files could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rmdir()  # fails if there is something in it
        temporary.replace(path)
        if os.name == "posix":
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def sole_writer(name: str, path: Path) -> Iterator[None]:
    """Lock a file that takes long to make against other processes, inside a `with` block.

    The lock is `<path>.lock`; it is released if the process is killed.

    Args:
        name: of the setting, for the message.
        path: the file; missing parent folders are created.

    Raises:
        ValueError: another process makes the file.
        OSError: the lock cannot be written.
    """
    from filelock import FileLock, Timeout  # takes 0.1 s to import

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.lock")
    try:
        lock = FileLock(file).acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process writes {name}={path}; wait for it, or give another name"
        ) from None
    with lock:
        try:
            yield
        finally:
            # Nobody waits for the lock. On Windows, an open file cannot be deleted.
            with suppress(OSError):
                file.unlink()


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file with `atomic_write`; line ends are written as given."""
    write_bytes_atomically(path, [text.encode()])


def write_bytes_atomically(
    path: Path, parts: Sequence[Buffer], *, remaining_bytes: int = 0
) -> None:
    """Write the concatenated `parts` with `atomic_write`.

    Args:
        path: replaced if it exists.
        parts: objects with a buffer, such as bytes or contiguous arrays.
        remaining_bytes: expected size of the files that are still to be written, for the message.

    Raises:
        OSError: the file could not be written; if the disk is full (ENOSPC), the message says how
            many bytes are needed and free.
    """
    views = [memoryview(part).cast("B") for part in parts]
    size = sum(view.nbytes for view in views)
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            for view in views:
                file.write(view)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            errno.ENOSPC,
            f"{path} takes {bytes_text(size)}; about {bytes_text(size + remaining_bytes)} are "
            f"needed in total, {bytes_text(free)} are free",
        ) from error


def is_temporary(name: str, target: str) -> bool:
    """Whether a file of this name can be a temporary file of `target` in the same folder."""
    return name.startswith(f"{target}.") and name.endswith(".tmp")


def remove_temporary_files(folder: Path) -> None:
    """Delete the temporary files of killed processes; no other process may write to `folder`."""
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_invalid_file(path: Path) -> str | None:
    """Describe why a model file is invalid, and what to do; None if the cause is unknown.

    Two causes are common in clones and downloads of model repositories: an empty file, and a Git
    LFS pointer of a few lines instead of the file itself.
    """
    with path.open("rb") as file:
        begin = file.read(len(_LFS_POINTER))
    if not begin:
        return "is empty; fetch it again"
    if begin == _LFS_POINTER:
        return "is a Git LFS pointer and not the file itself; fetch the file with `git lfs pull`"
    return None
