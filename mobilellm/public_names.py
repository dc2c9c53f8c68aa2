"""Imports public names of packages from their files when they are first used."""

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def import_public_name(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """Import a public name of a package that lists the module of each of its names.

    Args:
        package: full name of the package that offers the name, for messages.
        name: as it is imported.
        modules: full names of the modules, by public name.

    Raises:
        AttributeError: the name is not listed.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(modules[name]), name)


def import_public_class(
    package: str, name: str, *, files: str | None = None, suffix: str = ""
) -> Any:
    """Import a class or function of a package from the file that is named after it.

    `ForwardKL` is imported from `forward_kl.py`; with the suffix `Callback`, `LossGuardCallback` is
    imported from `loss_guard.py`. A new file needs no entry in a list.

    Args:
        package: full name of the package that offers the name, for messages.
        name: as it is imported.
        files: full name of the package with the files; default: `package`.
        suffix: last part of all class names, which file names omit.

    Raises:
        AttributeError: there is no such file, or it does not define the name.
    """
    stem = name.removesuffix(suffix)
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", stem)
    module = f"{files or package}.{'_'.join(words).lower()}"
    if not name.startswith("_") and words and find_spec(module) is not None:
        found = getattr(import_module(module), name, None)
        if getattr(found, "__module__", None) == module:
            return found
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
