"""What Hydra knows about the command that started a run."""

from dataclasses import dataclass, field

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from mobilellm.hydra_app.override_text import override_key
from mobilellm.hydra_app.sweep_launcher import sweep_launcher_of
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
    launcher = sweep_launcher_of(job.launcher) if is_sweep else None
    return HydraJob(
        overrides=overrides,
        distinguishing=distinguishing or overrides,
        is_sweep=is_sweep,
        launcher=None if launcher is None else launcher.choice,
        choices={name: str(choices[name]) for name in NAMED_GROUPS if choices.get(name)},
    )
