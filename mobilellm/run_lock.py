"""Locks a run folder, so that only one process at a time trains in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilellm.checkpoint_files import CHECKPOINTS


class RunIsBusy(ValueError):
    """Raised if another process is training in the folder."""


@contextmanager
def lock_run_folder(folder: Path, timeout: float = 0) -> Iterator[None]:
    """Lock a run folder against other processes inside a `with` block.

    The lock of a process that is killed is released.

    Args:
        folder: created if it does not exist.
        timeout: seconds to wait for another process; negative: wait without limit.

    Raises:
        RunIsBusy: another process is still training there.
    """
    from filelock import FileLock, Timeout

    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / CHECKPOINTS / ".lock").acquire(timeout=timeout)
    except Timeout as error:
        raise RunIsBusy(
            f"another process is training in {folder}; wait for it, or end that process"
        ) from error
    with lock:
        yield
