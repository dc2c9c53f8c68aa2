"""Compose and check every trial of a sweep before the first one starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.configuration import load
from mobilellm.hydra_app.errors import describe_configuration_error
from mobilellm.hydra_app.override_text import by_key, override_key, shown_override, varying_keys
from mobilellm.hydra_app.sweep_expansion import BASIC_SWEEPER, compose_trial, expand, sweep_lines
from mobilellm.hydra_app.sweep_launcher import SweepLauncher, sweep_launcher_of
from mobilellm.hydra_app.trial import Trial, without_hydra
from mobilellm.training.process_rank import launched_process_rank

Check = Callable[[DictConfig], Any]
CheckTogether = Callable[[Sequence[Trial]], None]


def check_sweep(
    loader: ConfigLoader,
    config_name: str,
    overrides: Sequence[str],
    check: Check | None,
    check_together: CheckTogether | None = None,
) -> list[Trial]:
    """Compose all trials, check each, and refuse two that are the same run.

    Only the trials of Hydra's basic sweeper are known beforehand. With another sweeper the list is
    empty, and each trial is checked when it starts.

    Args:
        loader: Hydra's loader on the configuration folder.
        config_name: the root configuration.
        overrides: the overrides of the command line, including sweeps such as `seed=0,1`.
        check: called with the configuration of each trial. It raises an error if the trial cannot
            run, and may return its run folder.
        check_together: called with all trials. It raises an error if they would interfere with each
            other.

    Raises:
        ValueError: a trial cannot be composed or `check` refuses it (the message gives its
            overrides), or `check_together` refuses the trials.
    """
    sweep = load(loader, config_name, list(overrides), RunMode.MULTIRUN)
    launcher = sweep_launcher_of(sweep.hydra.launcher)
    if launcher is not None:
        _refuse_several_sweeps(launcher)
    with _prepared(launcher, sweep):
        if sweep.hydra.sweeper._target_ != BASIC_SWEEPER:
            return []
        trials = _checked_trials(loader, sweep, launcher, check)
        _refuse_duplicates(trials)
        if check_together is not None:
            try:
                check_together(trials)
            except (ValueError, FileNotFoundError) as error:
                raise CommandError(f"{error}; no trial was started") from error
        return trials


@contextmanager
def _prepared(launcher: type[SweepLauncher] | None, sweep: DictConfig) -> Iterator[None]:
    """Let the launcher prepare in the background while this process checks the trials."""
    if launcher is None:
        yield
        return
    try:
        launcher.prepare(sweep.hydra.launcher)
        yield
    except BaseException:
        launcher.abandon()
        raise


def _checked_trials(
    loader: ConfigLoader,
    sweep: DictConfig,
    launcher: type[SweepLauncher] | None,
    check: Check | None,
) -> list[Trial]:
    """All trials of the sweep, composed and checked one by one."""
    expanded = expand(loader, sweep)
    if not expanded:
        raise CommandError(
            f"the sweep has no trials: one of {' '.join(sweep_lines(sweep))} has no values; "
            "give a range that is not empty, or a pattern that matches (see --help)"
        )
    trials: list[Trial] = []
    refused: list[str] = []
    varying = varying_keys([by_key(typed) for _, typed in expanded])
    for number, (trial_overrides, typed) in enumerate(expanded):
        swept = tuple(o for o in typed if override_key(o) in varying)
        try:
            config = compose_trial(loader, sweep, number, typed, varying)
            if launcher is not None:
                launcher.check_trial(config)
            trials.append(Trial(tuple(trial_overrides), config, _checked(config, check), swept))
        except Exception as error:
            message = describe_configuration_error(error)
            if message is None:
                raise
            name = " ".join(map(shown_override, swept or typed))
            refused.append(f"trial {name}: {message}")
    if refused:
        more = f" (and {len(refused) - 1} more trials)" if len(refused) > 1 else ""
        raise CommandError(f"{refused[0]}{more}; no trial was started")
    return trials


def _checked(config: DictConfig, check: Check | None) -> Path | None:
    """Check one trial; its run folder, if the check returns one."""
    HydraConfig.instance().set_config(config)
    task_config = without_hydra(config)
    OmegaConf.to_container(task_config, resolve=True, throw_on_missing=True)
    folder = check(task_config) if check is not None else None
    return Path(folder) if isinstance(folder, (str, Path)) else None


def _refuse_several_sweeps(launcher: type[SweepLauncher]) -> None:
    """Refuse to start a sweep in each of the processes that torchrun or srun started."""
    place = launched_process_rank()
    if place is not None and place.world_size > 1:
        raise CommandError(
            f"{place.launcher} started {place.world_size} processes, each of which would run the "
            f"whole sweep with hydra/launcher={launcher.choice}; start the command once, without "
            f"{place.launcher}, or use hydra/launcher=basic, which trains one trial after the "
            "other on all of them"
        )


def _refuse_duplicates(trials: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        key = str(trial.folder or OmegaConf.to_yaml(without_hydra(trial.config), resolve=True))
        if key in seen:
            raise CommandError(
                f"trials '{seen[key].name}' and '{trial.name}' are the same run"
                + (f" ({trial.folder})" if trial.folder else "")
                + "; remove one of the equal values, or, if they differ in settings that do not "
                "change the result, give each its own experiment_name; no trial was started"
            )
        seen[key] = trial
