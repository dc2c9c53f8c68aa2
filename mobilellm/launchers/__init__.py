"""Hydra launchers and what they start: one process per trial, on this machine or on a cluster."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilellm.launchers.local.launcher import LocalLauncher as LocalLauncher
    from mobilellm.launchers.slurm.launcher import SlurmLauncher as SlurmLauncher

# Imported when they are first used: `mobilellm status` reads files only and needs none of Hydra.
PUBLIC = {
    "LocalLauncher": "mobilellm.launchers.local.launcher",
    "SlurmLauncher": "mobilellm.launchers.slurm.launcher",
}


def __getattr__(name: str) -> Any:
    """The public names, each imported from its module."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)
