"""What Hydra knows about the command that started a run."""

from dataclasses import dataclass, field

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class

from mobilellm.hydra_app.override_text import override_key
from mobilellm.hydra_app.trial import as_typed, common_keys

# Groups whose chosen file says more than its settings.
NAMED_GROUPS = ("compression", "distillation")


@dataclass(frozen=True)
class HydraJob:
    """One run of a command; all fields keep their defaults if a program made the configuration."""

    overrides: tuple[str, ...] | None = None
    """Overrides of the run, as typed; None: there is no command line."""
    distinguishing: tuple[str, ...] = ()
    """The overrides in which the run differs from the sweep's other trials; without a sweep all."""
    is_sweep: bool = False
    launcher: str | None = None
    """The choice of hydra/launcher that gives each trial of the sweep a process of its own, `local`
    or `slurm`; None for other launchers and without a sweep."""
    choices: dict[str, str] = field(default_factory=dict)
    """The file chosen for each of `NAMED_GROUPS`, e.g. `distillation: kngpt2`."""


def hydra_job() -> HydraJob:
    """The present job."""
    if not HydraConfig.initialized():
        return HydraJob()
    job = HydraConfig.get()
    overrides, common = tuple(as_typed(job.overrides.task)), common_keys(job)
    distinguishing = tuple(o for o in overrides if override_key(o) not in common)
    is_sweep, choices = job.mode == RunMode.MULTIRUN, job.runtime.choices
    # Only read: `sweep_launcher_of` lets Hydra load its plugins again, and a configuration that was
    # composed before could then not be pickled for the processes of the ranks.
    launcher = getattr(get_class(job.launcher._target_), "choice", None) if is_sweep else None
    return HydraJob(
        overrides=overrides,
        distinguishing=distinguishing or overrides,
        is_sweep=is_sweep,
        launcher=launcher,
        choices={name: str(choices[name]) for name in NAMED_GROUPS if choices.get(name)},
    )
