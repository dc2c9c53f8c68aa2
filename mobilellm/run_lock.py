"""One process at a time trains in a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilellm.checkpoint_files import CHECKPOINTS


class RunIsBusy(ValueError):
    """Another process is training in the folder."""


@contextmanager
def locked(folder: Path, timeout: float = 0) -> Iterator[None]:
    """Lock `folder` against other training processes; the lock of a killed process is released.

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
            f"{folder} is being trained by another process; wait for it, or end that process"
        ) from error
    with lock:
        yield
