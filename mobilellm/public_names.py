"""Public names of packages, each imported from its file when it is first used."""

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def listed_name(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """A public name of a package that lists in which module each of its names lies.

    Args:
        package: full name of the package that offers the name, for messages.
        name: as it is imported.
        modules: full name of the module of each public name.

    Raises:
        AttributeError: the name is not listed.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(modules[name]), name)


def public_class(package: str, name: str, *, files: str | None = None, suffix: str = "") -> Any:
    """The class or function `name` of a package, from the file that is named after it.

    `ForwardKL` is looked for in `forward_kl.py`, and with the suffix `Callback`,
    `LossGuardCallback` in `loss_guard.py`. A new file needs no entry in a list.

    Args:
        package: full name of the package that offers the name, for messages.
        name: as it is imported.
        files: full name of the package with the files; default: `package`.
        suffix: of all class names, which file names leave out.

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
