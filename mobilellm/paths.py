"""Paths that the user gives: expands home folders, and checks that folders can be written to."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return a path of the user, with `~` and `~name` replaced by home folders.

    Shells do not replace them in quotes and in `key=~/x`.

    Raises:
        ValueError: there is no user `name` on this machine.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: {error}; give the whole path") from error


def expand_home_in_override(override: str) -> str:
    """Replace `~` by the home folder in overrides: `key=~/x`, `key=~/a,~/b` and `key=[~/a]`.

    Hydra's grammar does not allow a `~` outside of quotes.
    """
    return re.sub(r"(?<=[=,\[])~(?=/)", str(Path.home()), override)


def expand_home_folders(config: Any) -> Any:
    """Replace `~/` at the beginning of every string in plain data by the home folder.

    Users can add callbacks with settings of their own, so it is not known which settings are paths;
    but only paths begin with `~/`.
    """
    if isinstance(config, Mapping):
        return {key: expand_home_folders(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [expand_home_folders(item) for item in config]
    if isinstance(config, str) and (config == "~" or config.startswith("~/")):
        return str(user_path(config))
    return config


def check_writable(name: str, folder: Path) -> None:
    """Check that a folder can be created and written to, before any work is done.

    Args:
        name: of the setting, for the message.
        folder: need not exist.

    Raises:
        ValueError: the path or one of its parents is a file, or the folder is not writable.
    """
    nearest = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    if not nearest.is_dir():
        raise ValueError(f"{name}={folder}: {nearest} is a file, not a folder; give another path")
    try:
        # Permissions are not sufficient: the file system may be read-only, or restrict root.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(
            f"{name}={folder} cannot be written ({error.strerror} in {nearest}); give another path"
        ) from error


def check_unused(name: str, folder: Path, *, own: str | None = None) -> None:
    """Check before any work that a result overwrites nothing but an earlier one of its kind.

    Args:
        name: of the setting, for the message.
        folder: must not exist, be empty, or have the file `own`.
        own: name of a file that earlier results of this kind have; None: they are not overwritten.

    Raises:
        ValueError: the folder has other files, or `check_writable` refuses it.
    """
    check_writable(name, folder)
    is_new = not folder.exists() or not any(folder.iterdir())
    if not is_new and (own is None or not (folder / own).exists()):
        earlier = f", or that of an earlier result (with {own} in it)" if own else ""
        raise ValueError(
            f"{name}={folder} is in use and is never overwritten; give a new folder{earlier}"
        )


def check_new_folder(name: str, folder: Path) -> None:
    """Check before any work that `mobilellm.files.new_folder` can make a folder.

    Args:
        name: of the setting, for the message.
        folder: does not exist, or is empty.

    Raises:
        ValueError: the folder is the current one, or `check_unused` refuses it.
    """
    check_unused(name, folder)
    # An empty folder is replaced, and a shell whose folder is replaced remains in the old one.
    if folder.resolve() == Path.cwd():
        raise ValueError(
            f"{name}={folder} is the current folder, which cannot be replaced by the result; give "
            "the name of a new folder in it"
        )
