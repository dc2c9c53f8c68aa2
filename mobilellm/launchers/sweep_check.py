"""Compose and check every trial of a sweep before the first one starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.launchers.configuration import load
from mobilellm.launchers.errors import CommandError, describe_error
from mobilellm.launchers.gpus import visible_gpus

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
LOCAL_LAUNCHER = "hydra_plugins.mobilellm_local.LocalLauncher"
SLURM_LAUNCHER = "hydra_plugins.mobilellm_slurm.SlurmLauncher"


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    """As on the command line, Hydra's own left out."""
    config: "DictConfig"
    """The composed configuration, `hydra` included."""
    folder: Path | None
    """The run folder, where the check gave one."""

    @property
    def name(self) -> str:
        """The overrides, readable."""
        return " ".join(self.overrides) or "(no overrides)"


def check_sweep(
    loader: "ConfigLoader",
    config_name: str,
    overrides: Sequence[str],
    check: "Callable[[DictConfig], Any] | None",
) -> list[Trial]:
    """Compose all trials, check each, and refuse two that are the same run.

    A sweep whose trials are not known beforehand (any sweeper but Hydra's basic one) gives an
    empty list: its trials are checked as they start.

    Args:
        loader: Hydra's loader on the configuration folder.
        config_name: the root configuration.
        overrides: the command line's, sweeps such as `seed=0,1` included.
        check: takes a trial's configuration, raises where it could not run, may return its folder.

    Raises:
        ValueError: a trial that does not compose or that `check` refuses, with its overrides.
    """
    from hydra.types import RunMode

    master = load(loader, config_name, list(overrides), RunMode.MULTIRUN)
    if master.hydra.launcher._target_ == LOCAL_LAUNCHER:
        from mobilellm.launchers.local import warm_up

        # While this process checks the trials, the other one loads what they need.
        warm_up(master.hydra.launcher)
    if master.hydra.sweeper._target_ != BASIC_SWEEPER:
        return []
    trials: list[Trial] = []
    refused: list[str] = []
    for number, trial_overrides in enumerate(_expand(loader, master)):
        try:
            trials.append(_checked(loader, master, number, trial_overrides, check))
        except Exception as error:
            message = describe_error(error)
            if message is None:
                raise
            refused.append(f"trial {' '.join(trial_overrides)}: {message}")
    if refused:
        more = f" (and {len(refused) - 1} more trials)" if len(refused) > 1 else ""
        raise CommandError(f"{refused[0]}{more}; no trial was started")
    _refuse_duplicates(trials)
    return trials


def _expand(loader: "ConfigLoader", master: "DictConfig") -> list[list[str]]:
    """The overrides of each trial, in the basic sweeper's order."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    sweeper: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=False)
    lines = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    lines += as_typed(master.hydra.overrides.task)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    return BasicSweeper.split_arguments(parsed, None)[0]


def _checked(
    loader: "ConfigLoader",
    master: "DictConfig",
    number: int,
    overrides: list[str],
    check: "Callable[[DictConfig], Any] | None",
) -> Trial:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    lines = [*as_typed(master.hydra.overrides.hydra), *overrides]
    config = load(loader, master.hydra.job.config_name, lines, RunMode.RUN)
    OmegaConf.copy_cache(from_config=master, to_config=config)
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
    _refuse_several_devices(config)
    HydraConfig.instance().set_config(config)
    task_config = without_hydra(config)
    OmegaConf.to_container(task_config, resolve=True, throw_on_missing=True)
    folder = check(task_config) if check is not None else None
    return Trial(
        tuple(overrides), config, Path(folder) if isinstance(folder, (str, Path)) else None
    )


def as_typed(overrides: Any) -> list[str]:
    """Hydra's record of the overrides, a ListConfig, with `${…}` left as it was typed."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in plain]


def without_hydra(config: "DictConfig") -> "DictConfig":
    """A copy that holds the task's own keys."""
    import copy

    from omegaconf import open_dict, read_write

    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def _refuse_several_devices(config: "DictConfig") -> None:
    """Refuse more GPUs than the launcher gives a trial: the trial would fail once it starts."""
    from omegaconf import OmegaConf

    if config.hydra.launcher._target_ != LOCAL_LAUNCHER or not visible_gpus():
        return
    devices = OmegaConf.select(config, "trainer.devices")
    on_gpu = OmegaConf.select(config, "trainer.accelerator") in ("auto", "cuda")
    if on_gpu and isinstance(devices, int) and devices > 1:
        raise CommandError(
            f"trainer.devices={devices} must be 1 with hydra/launcher=local, which gives each "
            "trial one GPU; use hydra/launcher=basic, which trains one trial after the other on "
            "all GPUs, or hydra/launcher=slurm"
        )


def _refuse_duplicates(trials: Sequence[Trial]) -> None:
    from omegaconf import OmegaConf

    seen: dict[str, Trial] = {}
    for trial in trials:
        key = str(trial.folder or OmegaConf.to_yaml(without_hydra(trial.config), resolve=True))
        if key in seen:
            raise CommandError(
                f"trials '{seen[key].name}' and '{trial.name}' are the same run"
                + (f" ({trial.folder})" if trial.folder else "")
                + "; remove one of the equal values; no trial was started"
            )
        seen[key] = trial
