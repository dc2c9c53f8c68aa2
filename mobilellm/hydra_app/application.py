"""Hydra's command line without its folders, logs and tracebacks; sweeps outlive a trial."""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.cli.errors import CommandError, describe_error
from mobilellm.hydra_app.configuration import config_folder, config_loader, load, register_plugins
from mobilellm.hydra_app.sweep_check import Trial, as_typed, check_sweep
from mobilellm.launchers.local.fork_server import kill_fork_server
from mobilellm.paths import home_in_override, user_path, with_home_folders

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Our run folders hold the configuration and the results; Hydra writes nothing of its own.
HOUSEKEEPING = {
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
    "hydra.output_subdir": "null",
    "hydra.run.dir": ".",
    "hydra.sweep.subdir": ".",
}


class SweepTask:
    """A task under `-m`: a trial that fails is reported and remembered, and the sweep goes on.

    Outside a sweep it is the task itself.
    """

    def __init__(self, task: "Callable[[DictConfig], Any]") -> None:
        """Wrap `task`."""
        functools.update_wrapper(self, task)
        self.task = task
        self.trials: list[Trial] = []
        self.failures: list[tuple[str, str]] = []
        """Overrides and reason of each trial that failed."""
        self.error: Exception | None = None
        """What the task raised outside a sweep."""

    def __call__(self, config: "DictConfig") -> Any:
        """Run one trial in this process."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        job = HydraConfig.get()
        if job.mode != RunMode.MULTIRUN:
            try:
                return self.task(config)
            except Exception as error:
                # Raised again by `HydraApplication.run`: Hydra would print a line of its own.
                self.error = error
                return None
        trial = self.trial(as_typed(job.overrides.task))
        if trial is not None:
            # As it was checked: with what was typed, and with what tells it from the others.
            HydraConfig.instance().set_config(trial.config)
        name = trial.name if trial else " ".join(as_typed(job.overrides.task))
        total = f" of {len(self.trials)}" if self.trials else ""
        _tell(f"trial {job.job.num + 1}{total}: {name}")
        try:
            return self.task(config)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                # A library that turned Ctrl-C into an exit code; the sweep is over all the same.
                raise stop.__context__ from None
            if stop.code in (None, 0):
                return None
            message = f"exited with {stop.code}"
        except Exception as error:
            message = describe_error(error)
            if message is None:
                import traceback

                traceback.print_exc()
                message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self.fail(name, message)
        _tell(f"failed: {name}: {message}")
        return None

    def fail(self, name: str, message: str) -> None:
        """Remember that the trial with these overrides failed."""
        self.failures.append((name, message))

    def trial(self, overrides: Sequence[str]) -> Trial | None:
        """The trial that was checked under these overrides."""
        return next((t for t in self.trials if t.overrides == tuple(overrides)), None)


class HydraApplication:
    """One command on one root configuration; arguments as of `command.hydra_command`."""

    def __init__(
        self,
        task: "Callable[[DictConfig], Any]",
        config_name: str,
        description: str = "",
        *,
        check: str | None = None,
        check_together: str | None = None,
        sweep_dir: str | None = None,
        config_dir: Path | None = None,
    ) -> None:
        """Remember what to run; nothing is composed yet."""
        self.task = task
        self.config_name = config_name
        self.description = description
        self.check = check
        self.check_together = check_together
        self.housekeeping = HOUSEKEEPING | ({"hydra.sweep.dir": sweep_dir} if sweep_dir else {})
        self.config_dir = config_dir

    def run(self, line: Sequence[str]) -> int:
        """Do what the command line says.

        Returns:
            How many trials of a sweep failed.

        Raises:
            ValueError: a configuration that does not compose; and whatever the task raises.
        """
        from hydra._internal.utils import _run_hydra, get_args_parser

        parser = get_args_parser()
        arguments = parser.parse_args(list(line))
        folder = Path(self.config_dir or config_folder()).resolve()
        if arguments.help:
            from mobilellm.cli.help_text import help_text

            sys.stdout.write(help_text(folder, self.config_name, self.description))
            return 0
        if arguments.config_dir is not None:
            arguments.overrides.append(_search_path(arguments.config_dir, arguments.overrides))
            arguments.config_dir = None
        arguments.overrides = [home_in_override(override) for override in arguments.overrides]
        given = {override.partition("=")[0] for override in arguments.overrides}
        arguments.overrides = [
            *(f"{key}={value}" for key, value in self.housekeeping.items() if key not in given),
            *arguments.overrides,
        ]
        task = SweepTask(self.task)
        task.trials = self._check(arguments, folder)
        arguments.overrides += _home_of_logs(task.trials)
        register_plugins()
        with _full_errors():
            _run_hydra(arguments, parser, task, str(folder), self.config_name)
        if task.error is not None:
            raise task.error
        if task.failures:
            _tell(f"{len(task.failures)} of {len(task.trials) or 'the'} trials failed:")
            for name, message in task.failures:
                _tell(f"  {name}: {message}")
        return len(task.failures)

    def _check(self, arguments: argparse.Namespace, folder: Path) -> list[Trial]:
        """Compose first ourselves: for the errors that help, and for all trials of a sweep."""
        from hydra.types import RunMode

        if arguments.info or arguments.shell_completion or arguments.hydra_help:
            return []
        name = arguments.config_name or self.config_name
        sweep = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
        with config_loader(folder) as loader:
            if not sweep:
                load(loader, name, list(arguments.overrides), RunMode.RUN)
                return []
            from hydra.utils import get_method

            check = get_method(self.check) if self.check else None
            together = get_method(self.check_together) if self.check_together else None
            # As Hydra itself composes a sweep, so that the task can tell that it is one.
            overrides = [*arguments.overrides, "hydra.mode=MULTIRUN"]
            try:
                return check_sweep(loader, name, overrides, check, together)
            except BaseException:
                kill_fork_server()
                raise


def _search_path(config_dir: str, overrides: Sequence[str]) -> str:
    """`--config-dir DIR` as an override, which the processes of every launcher are given too.

    Raises:
        ValueError: there is no such folder, or the override is given as well.
    """
    folder = user_path(config_dir).absolute()
    if not folder.is_dir():
        raise CommandError(
            f"--config-dir {config_dir} is no folder; give one laid out like conf/, e.g. with "
            "model/mine.yaml in it for model=mine"
        )
    if any(override.lstrip("+").startswith("hydra.searchpath=") for override in overrides):
        raise CommandError("--config-dir and hydra.searchpath=… both say where to look; give one")
    return f"hydra.searchpath=[{_quoted(f'file://{folder}')}]"


def _home_of_logs(trials: Sequence[Trial]) -> list[str]:
    """The override for a sweep's logs where their folder is given with `~`."""
    folder = str(trials[0].config.hydra.sweep.dir) if trials else ""
    expanded = with_home_folders(folder)
    return [] if expanded == folder else [f"hydra.sweep.dir={_quoted(expanded)}"]


def _quoted(text: str) -> str:
    """As a value of Hydra's command line, whatever characters it has."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def _full_errors() -> Iterator[None]:
    """Let Hydra raise instead of printing and exiting with its own code."""
    import hydra.version

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


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
