"""Compose and check every trial of a sweep before the first one starts."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.cli.errors import CommandError, describe_error
from mobilellm.hydra_app.configuration import load
from mobilellm.hydra_app.override_text import by_key, override_key, shown_override, varying_keys
from mobilellm.launchers.local.gpus import visible_gpus

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
LOCAL_LAUNCHER = "hydra_plugins.mobilellm_local.LocalLauncher"
# One of a sweep's values: up to a comma that stands in no quotes and no brackets.
_ELEMENT = r"""(?:[^,\"'\[\]{}()]|"[^"]*"|'[^']*'|\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\))+"""
SLURM_LAUNCHER = "hydra_plugins.mobilellm_slurm.SlurmLauncher"


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    """As Hydra's sweeper passes them, its own left out."""
    config: "DictConfig"
    """The composed configuration, `hydra` included."""
    folder: Path | None
    """The run folder, where the check gave one."""
    swept: tuple[str, ...] = ()
    """Those of the overrides in which the sweep's trials differ, as they were typed."""

    @property
    def name(self) -> str:
        """What tells it from the other trials, readable."""
        shown = self.swept or tuple(as_typed(self.config.hydra.overrides.task)) or self.overrides
        return " ".join(map(shown_override, shown)) or "(no overrides)"


def check_sweep(
    loader: "ConfigLoader",
    config_name: str,
    overrides: Sequence[str],
    check: "Callable[[DictConfig], Any] | None",
    check_together: "Callable[[Sequence[Trial]], None] | None" = None,
) -> list[Trial]:
    """Compose all trials, check each, and refuse two that are the same run.

    A sweep whose trials are not known beforehand (any sweeper but Hydra's basic one) gives an
    empty list: its trials are checked as they start.

    Args:
        loader: Hydra's loader on the configuration folder.
        config_name: the root configuration.
        overrides: the command line's, sweeps such as `seed=0,1` included.
        check: takes a trial's configuration, raises where it could not run, may return its folder.
        check_together: takes all trials, raises where they would get in each other's way.

    Raises:
        ValueError: a trial that does not compose or that `check` refuses, with its overrides;
            what `check_together` refuses.
    """
    from hydra.types import RunMode

    master = load(loader, config_name, list(overrides), RunMode.MULTIRUN)
    _refuse_several_sweeps(master)
    if master.hydra.launcher._target_ == LOCAL_LAUNCHER:
        from mobilellm.launchers.local.launcher import warm_up

        # While this process checks the trials, the other one loads what they need.
        warm_up(master.hydra.launcher)
    if master.hydra.sweeper._target_ != BASIC_SWEEPER:
        return []
    trials: list[Trial] = []
    refused: list[str] = []
    expanded = _expand(loader, master)
    if not expanded:
        raise CommandError(
            f"the sweep has no trials: of {' '.join(_sweep_lines(master))} one means no value; "
            "give a range that is not empty, or a pattern that matches (see --help)"
        )
    varying = varying_keys([by_key(typed) for _, typed in expanded])
    for number, (trial_overrides, typed) in enumerate(expanded):
        swept = tuple(o for o in typed if override_key(o) in varying)
        try:
            config = _composed(loader, master, number, typed, varying)
            trials.append(Trial(tuple(trial_overrides), config, _checked(config, check), swept))
        except Exception as error:
            message = describe_error(error)
            if message is None:
                raise
            name = " ".join(map(shown_override, swept or typed))
            refused.append(f"trial {name}: {message}")
    if refused:
        more = f" (and {len(refused) - 1} more trials)" if len(refused) > 1 else ""
        raise CommandError(f"{refused[0]}{more}; no trial was started")
    _refuse_duplicates(trials)
    if check_together is not None:
        try:
            check_together(trials)
        except (ValueError, FileNotFoundError) as error:
            raise CommandError(f"{error}; no trial was started") from error
    return trials


def _sweep_lines(master: "DictConfig") -> list[str]:
    """What is swept and set: the experiment's parameters, then the command line's."""
    from omegaconf import OmegaConf

    sweeper: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=False)
    lines = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    return lines + as_typed(master.hydra.overrides.task)


def _expand(loader: "ConfigLoader", master: "DictConfig") -> list[tuple[list[str], list[str]]]:
    """The overrides of each trial, in the basic sweeper's order: as it passes them, and as typed.

    The sweeper writes values anew, `2e4` as `20000.0`.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides(_sweep_lines(master))
    typed: dict[str, str] = {}
    for override in parsed:
        typed |= _typed_values(override, parser)
    trials = BasicSweeper.split_arguments(parsed, None)[0]
    return [(trial, [typed.get(override, override) for override in trial]) for trial in trials]


def _typed_values(override: Any, parser: Any) -> dict[str, str]:
    """Each override that the sweeper makes of this one, and how it was typed."""
    key, line = override.get_key_element(), override.input_line
    value = line.partition("=")[2]
    if not override.is_sweep_override():
        return {f"{key}={override.get_value_element_as_str()}": line}
    if not hasattr(override.value(), "list"):
        return {}
    found = {}
    for piece in re.findall(_ELEMENT, value):
        try:
            [single] = parser.parse_overrides([f"{key}={piece.strip()}"])
            found[f"{key}={single.get_value_element_as_str()}"] = f"{key}={piece.strip()}"
        except Exception:
            # A nested list, or choice(…): shown as the sweeper writes it.
            continue
    return found


def _composed(
    loader: "ConfigLoader",
    master: "DictConfig",
    number: int,
    overrides: list[str],
    varying: Sequence[str],
) -> "DictConfig":
    """The trial's configuration, which also says in which keys trials do not differ."""
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    lines = [*as_typed(master.hydra.overrides.hydra), *overrides]
    config = load(loader, master.hydra.job.config_name, lines, RunMode.RUN)
    OmegaConf.copy_cache(from_config=master, to_config=config)
    common = [key for key in by_key(overrides) if key not in varying]
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
        config.hydra.job.config.override_dirname.exclude_keys = common
    return config


def _checked(config: "DictConfig", check: "Callable[[DictConfig], Any] | None") -> Path | None:
    """Check one trial; its run folder, where the check gives one."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    _refuse_several_devices(config)
    HydraConfig.instance().set_config(config)
    task_config = without_hydra(config)
    OmegaConf.to_container(task_config, resolve=True, throw_on_missing=True)
    folder = check(task_config) if check is not None else None
    return Path(folder) if isinstance(folder, (str, Path)) else None


def common_keys(hydra: Any) -> set[str]:
    """Overridden keys in which the trials of this job's sweep do not differ.

    Args:
        hydra: the job's own configuration.
    """
    return set(hydra.job.config.override_dirname.exclude_keys)


def common_overrides(trials: Sequence[Trial]) -> list[str]:
    """Overrides that all of a sweep's trials have, as they were typed."""
    if not trials or not trials[0].swept:
        return []
    overrides = as_typed(trials[0].config.hydra.overrides.task)
    common = common_keys(trials[0].config.hydra)
    return [override for override in overrides if override_key(override) in common]


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


def _refuse_several_sweeps(config: "DictConfig") -> None:
    """Refuse a launcher of trials in processes that another one started for the ranks of a run."""
    from mobilellm.training.places import launched_place

    name = {LOCAL_LAUNCHER: "local", SLURM_LAUNCHER: "slurm"}.get(config.hydra.launcher._target_)
    place = launched_place()
    if name is not None and place is not None and place.world_size > 1:
        raise CommandError(
            f"{place.launcher} started {place.world_size} processes, each of which would run the "
            f"whole sweep with hydra/launcher={name}; start the command once, without "
            f"{place.launcher}, or use hydra/launcher=basic, which trains one trial after the "
            "other on all of them"
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
                + "; remove one of the equal values, or give them an experiment_name of their own "
                "where they differ in what cannot change the result; no trial was started"
            )
        seen[key] = trial
