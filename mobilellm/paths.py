"""Folders and files that a user names."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def user_path(text: str | os.PathLike[str]) -> Path:
    """What the user wrote as a path, with `~` and `~name` as home folders.

    The one place that does so: shells leave them alone in quotes and in `key=~/x`.

    Raises:
        ValueError: `~name` of a user that this machine does not have.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error}; write the whole path") from error


def home_in_override(override: str) -> str:
    """`key=~/x`, `key=~/a,~/b` and `key=[~/a]` of the command line with the home folder.

    Hydra's grammar has no place for a `~` that is not in quotes.
    """
    return re.sub(r"(?<=[=,\[])~(?=/)", str(Path.home()), override)


def with_home_folders(config: Any) -> Any:
    """Plain data in which every text that begins with `~/` is a path below the home folder.

    Which keys are paths is known to their owners alone, callbacks of the user's own included; no
    other setting begins like this.
    """
    if isinstance(config, Mapping):
        return {key: with_home_folders(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [with_home_folders(item) for item in config]
    if isinstance(config, str) and (config == "~" or config.startswith("~/")):
        return str(user_path(config))
    return config


def check_writable(name: str, folder: Path) -> None:
    """Refuse a folder that could not be made or written to, before any work is done.

    Args:
        name: of the setting, for the message.
        folder: need not exist.

    Raises:
        ValueError: a file is in the way, or the folder is not writable.
    """
    nearest = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    if not nearest.is_dir():
        raise ValueError(f"{name}={folder} cannot be a folder: {nearest} is a file; give another")
    try:
        # Rights alone do not tell: a file system may be read-only, or root's rights end at it.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(
            f"{name}={folder} cannot be written ({error.strerror} in {nearest}); give another"
        ) from error
