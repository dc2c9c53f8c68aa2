"""Facts about the command that started a run, from Hydra."""

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import OmegaConf, read_write

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.override_text import override_key
from mobilellm.hydra_app.trial import as_typed, common_keys
from mobilellm.launchers.slurm.settings import SlurmSettings
from mobilellm.run_settings import is_among

# Groups whose chosen file is recorded by name.
NAMED_GROUPS = ("compression", "distillation", "adapter")


@dataclass(frozen=True)
class HydraJob:
    """One Hydra job; all fields have their defaults if no command line was used."""

    overrides: tuple[str, ...] | None = None
    """The overrides of the run as they were typed; None if there is no command line."""
    distinguishing: tuple[str, ...] = ()
    """The overrides in which the run differs from other trials of the sweep, or all without one."""
    is_sweep: bool = False
    launcher: str | None = None
    """`local` or `slurm` if this launcher runs each trial of a sweep in its own process; None for
    other launchers and without a sweep."""
    choices: dict[str, str] = field(default_factory=dict)
    """The file chosen for each of `NAMED_GROUPS`, e.g. `distillation: kngpt2`."""


def hydra_job() -> HydraJob:
    """The current job."""
    if not HydraConfig.initialized():
        return HydraJob()
    job = HydraConfig.get()
    overrides, common = tuple(as_typed(job.overrides.task)), common_keys(job)
    distinguishing = tuple(o for o in overrides if override_key(o) not in common)
    is_sweep, choices = job.mode == RunMode.MULTIRUN, job.runtime.choices
    # Not `sweep_launcher_of`, which reloads Hydra's plugins: configurations that were composed
    # before can then no longer be pickled for the rank processes.
    launcher = getattr(get_class(job.launcher._target_), "choice", None) if is_sweep else None
    return HydraJob(
        overrides=overrides,
        distinguishing=distinguishing or overrides,
        is_sweep=is_sweep,
        launcher=launcher,
        choices={name: str(choices[name]) for name in NAMED_GROUPS if choices.get(name)},
    )


def check_effect(overrides: Collection[str] | None, keys: Collection[str], reason: str) -> None:
    """Check that no setting of the command line is without effect.

    Args:
        overrides: of the command line, as they were typed; None if there is none.
        keys: of the settings, or of the nodes that contain them, which have no effect.
        reason: why, as the end of a sentence.

    Raises:
        ValueError: one of them is given.
    """
    for override in overrides or ():
        if is_among(override_key(override), keys):
            raise CommandError(f"{override} has no effect {reason}; leave it out")


def slurm_processes_per_node() -> int:
    """Processes per node of a trial that the current job submits with hydra/launcher=slurm."""
    plain: Any = OmegaConf.to_container(HydraConfig.get().launcher, resolve=True)
    settings = SlurmSettings(**{key: plain[key] for key in plain if key != "_target_"})
    return settings.processes_per_node


@contextmanager
def job_of(
    overrides: Sequence[str] | None, *, distinguishing: Collection[str] = ()
) -> Iterator[None]:
    """Let the current job have other overrides in a `with` block.

    Args:
        overrides: None if there is no command line; the job is then not changed.
        distinguishing: keys in which it differs from other runs of its sweep, besides those in
            which the current job does.
    """
    instance = HydraConfig.instance()
    before: Any = instance.cfg
    if overrides is None or before is None:
        yield
        return
    changed = copy.deepcopy(before)
    with read_write(changed.hydra):
        changed.hydra.overrides.task = list(overrides)
        common = [key for key in common_keys(before.hydra) if key not in distinguishing]
        changed.hydra.job.config.override_dirname.exclude_keys = common
    instance.cfg = changed
    try:
        yield
    finally:
        instance.cfg = before
