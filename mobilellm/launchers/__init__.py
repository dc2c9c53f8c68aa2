"""Hydra launchers that run one process per trial, on this machine or on a cluster."""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_name

if TYPE_CHECKING:
    from mobilellm.launchers.local.launcher import LocalLauncher as LocalLauncher
    from mobilellm.launchers.slurm.launcher import SlurmLauncher as SlurmLauncher

# Imported when they are first used: `mobilellm status` reads files only and needs none of Hydra.
_MODULES = {
    "LocalLauncher": "mobilellm.launchers.local.launcher",
    "SlurmLauncher": "mobilellm.launchers.slurm.launcher",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    return import_public_name(__name__, name, _MODULES)
