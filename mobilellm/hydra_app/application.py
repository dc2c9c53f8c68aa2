"""Hydra's command line without its folders and logs; all trials of a sweep are checked first."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra.version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig

from mobilellm.cli.errors import CommandError
from mobilellm.cli.messages import print_message
from mobilellm.hydra_app.configuration import config_folder, config_loader, load
from mobilellm.hydra_app.forecast_flags import (
    FORECAST_FLAGS,
    add_forecast_flags,
    forecast_trials,
    is_forecast_wanted,
)
from mobilellm.hydra_app.help_text import help_text
from mobilellm.hydra_app.root_schema import register_root_schema
from mobilellm.hydra_app.sweep_check import check_sweep
from mobilellm.hydra_app.sweep_task import SweepTask
from mobilellm.hydra_app.trial import Trial
from mobilellm.paths import expand_home_folders, expand_home_in_override, user_path

# Run folders contain the configuration and the results, so Hydra does not need to write files.
NO_HYDRA_FILES = {
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
    "hydra.output_subdir": "null",
    "hydra.run.dir": ".",
    "hydra.sweep.subdir": ".",
}


class HydraApplication:
    """One command with one root configuration; for the arguments see `command.hydra_command`."""

    def __init__(
        self,
        task: Callable[[DictConfig], Any],
        config_name: str,
        description: str = "",
        *,
        check: str | None = None,
        check_together: str | None = None,
        forecast: str | None = None,
        flags: str = "",
        sweep_refusal: str | None = None,
        sweep_dir: str | None = None,
        config_dir: Path | None = None,
    ) -> None:
        """Keep the arguments; nothing is composed yet."""
        self.task = task
        self.config_name = config_name
        self.description = description
        self.check = check
        self.check_together = check_together
        self.forecast = forecast
        self.flags = (FORECAST_FLAGS if forecast else "") + flags
        self.sweep_refusal = sweep_refusal
        self.defaults = NO_HYDRA_FILES | ({"hydra.sweep.dir": sweep_dir} if sweep_dir else {})
        self.config_dir = config_dir

    def run(self, line: Sequence[str]) -> int:
        """Run the command line.

        Returns:
            The number of trials of a sweep that failed.

        Raises:
            ValueError: the configuration cannot be composed, or a sweep is refused. Errors of the
                task are raised too.
        """
        parser = get_args_parser()
        if self.forecast:
            add_forecast_flags(parser)
        arguments = parser.parse_intermixed_args(list(line))
        folder = Path(self.config_dir or config_folder()).resolve()
        if arguments.help:
            text = help_text(
                folder, self.config_name, self.description, self.flags,
                has_sweeps=self.sweep_refusal is None,
            )  # fmt: skip
            sys.stdout.write(text)
            return 0
        if self.sweep_refusal is not None and _is_sweep(arguments):
            raise CommandError(self.sweep_refusal)
        if arguments.config_dir is not None:
            arguments.overrides.append(_search_path(arguments.config_dir, arguments.overrides))
            arguments.config_dir = None
        arguments.overrides = [
            expand_home_in_override(override) for override in arguments.overrides
        ]
        given = {override.partition("=")[0] for override in arguments.overrides}
        arguments.overrides = [
            *(f"{key}={value}" for key, value in self.defaults.items() if key not in given),
            *arguments.overrides,
        ]
        task = SweepTask(self.task)
        task.trials = self._check(arguments, folder)
        if self.forecast and is_forecast_wanted(arguments, task.trials):
            forecast_trials(get_method(self.forecast), arguments, task.trials)
            if arguments.dry_run:
                return 0
        arguments.overrides += _expanded_log_folder(task.trials)
        register_root_schema(self.config_name)
        with _full_errors():
            _run_hydra(arguments, parser, task, str(folder), self.config_name)
        if task.error is not None:
            raise task.error
        if task.failures:
            print_message(f"{len(task.failures)} of {len(task.trials) or 'the'} trials failed:")
            for name, message in task.failures:
                print_message(f"  {name}: {message}")
        return len(task.failures)

    def _check(self, arguments: argparse.Namespace, folder: Path) -> list[Trial]:
        """Compose before Hydra does, for clearer errors, and to check all trials of a sweep."""
        if arguments.info or arguments.shell_completion or arguments.hydra_help:
            return []
        name = arguments.config_name or self.config_name
        sweep = _is_sweep(arguments)
        with config_loader(folder) as loader:
            if not sweep:
                load(loader, name, list(arguments.overrides), RunMode.RUN)
                return []
            check = get_method(self.check) if self.check else None
            together = get_method(self.check_together) if self.check_together else None
            # Hydra sets this too, so that the task knows that it belongs to a sweep.
            overrides = [*arguments.overrides, "hydra.mode=MULTIRUN"]
            return check_sweep(loader, name, overrides, check, together)


def _is_sweep(arguments: argparse.Namespace) -> bool:
    return arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides


def _search_path(config_dir: str, overrides: Sequence[str]) -> str:
    """`--config-dir DIR` as an override, which every launcher passes to its processes.

    Raises:
        ValueError: the folder does not exist, or `hydra.searchpath` is given too.
    """
    folder = user_path(config_dir).absolute()
    if not folder.is_dir():
        raise CommandError(
            f"--config-dir {config_dir} is not a folder; give one laid out like conf/, e.g. with "
            "model/mine.yaml in it for model=mine"
        )
    if any(override.lstrip("+").startswith("hydra.searchpath=") for override in overrides):
        raise CommandError("--config-dir and hydra.searchpath=… set the same value; give only one")
    return f"hydra.searchpath=[{_quoted(f'file://{folder}')}]"


def _expanded_log_folder(trials: Sequence[Trial]) -> list[str]:
    """The override for the folder of a sweep's logs if it is given with `~`."""
    folder = str(trials[0].config.hydra.sweep.dir) if trials else ""
    expanded = expand_home_folders(folder)
    return [] if expanded == folder else [f"hydra.sweep.dir={_quoted(expanded)}"]


def _quoted(text: str) -> str:
    """The text quoted for Hydra's command line."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def _full_errors() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them and exiting with its own code."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.version.setbase("1.3")
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
