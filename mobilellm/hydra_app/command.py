"""Start a Hydra application from the command line and exit with the command's codes."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from mobilellm.cli.command import exit_code_of
from mobilellm.hydra_app.application import HydraApplication
from mobilellm.hydra_app.errors import describe_configuration_error


def hydra_command(
    task: Callable[[DictConfig], Any],
    config_name: str,
    *,
    description: str = "",
    check: str | None = None,
    check_together: str | None = None,
    forecast: str | None = None,
    flags: str = "",
    sweep_refusal: str | None = None,
    sweep_dir: str | None = None,
    config_dir: Path | None = None,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Run a Hydra application on the project's conf/ folder and exit.

    All of Hydra's command line works (`key=value`, `-m`, `--cfg job`, `--info`, …), but Hydra
    writes no `.hydra` folder and no log file.

    Args:
        task: takes the composed configuration. With `hydra/launcher=local` or `slurm` it must be a
            function that another process can import, preferably one of the package.
        config_name: the root configuration, a file of conf/ without `.yaml`.
        description: shown by `--help`.
        check: dotted path of a function that is called with the configuration of every trial
            before the first trial of a sweep starts. It raises if the trial could not run, and may
            return the trial's run folder.
        check_together: dotted path of a function that is called with all trials after each has
            been checked. It raises if they would interfere with each other.
        forecast: dotted path of a function that forecasts the cost of the trials of a sweep, for
            the flags --dry-run and --max-hours. It is called with the checked trials and the
            keyword arguments `max_hours` and `is_dry_run`.
        flags: lines of the help on flags that the command itself takes.
        sweep_refusal: why the command runs no sweeps (`-m`); None: it does.
        sweep_dir: Hydra's `hydra.sweep.dir`, the folder for the logs of a sweep; may interpolate.
        config_dir: a folder to use instead of the project's conf/.
        arguments: the command line; default: `sys.argv[1:]`.
    """
    application = HydraApplication(
        task,
        config_name,
        description,
        check=check,
        check_together=check_together,
        forecast=forecast,
        flags=flags,
        sweep_refusal=sweep_refusal,
        sweep_dir=sweep_dir,
        config_dir=config_dir,
    )
    line = list(sys.argv[1:] if arguments is None else arguments)
    failures = 0

    def run() -> None:
        nonlocal failures
        failures = application.run(line)

    code = exit_code_of(run, describe_configuration_error)
    sys.exit(code or (1 if failures else 0))
