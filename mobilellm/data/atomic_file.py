"""Files that are there whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Buffer = bytes | memoryview | Any


def write_atomically(path: Path, parts: Iterable[Buffer], *, still_needed: int = 0) -> None:
    """Write a file beside its place, then move it there.

    Args:
        path: replaced if it exists; its folder must exist.
        parts: the contents, anything with a buffer.
        still_needed: bytes that further files are expected to take, for the message below.

    Raises:
        OSError: ENOSPC with how much is needed and free, where the disk is full; what was there
            before stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    views = [memoryview(part).cast("B") for part in parts]
    size = sum(view.nbytes for view in views)
    try:
        with temporary.open("wb") as file:
            for view in views:
                file.write(view)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            errno.ENOSPC,
            f"{path} takes {size / 1e6:.1f} MB, about {(size + still_needed) / 1e6:.1f} MB are "
            f"needed in all, {free / 1e6:.1f} MB are free",
        ) from error
