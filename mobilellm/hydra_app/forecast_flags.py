"""The flags `--dry-run` and `--max-hours` of a command that trains sweeps."""

import argparse
from collections.abc import Callable, Sequence

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.sweep_launcher import sweep_launcher_of
from mobilellm.hydra_app.trial import Trial

FORECAST_FLAGS = """\
  --dry-run            with -m: list the trials with a forecast of their cost, and train nothing
  --max-hours H        with -m: refuse a sweep whose forecast is longer
"""


def add_forecast_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to Hydra's parser."""
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--max-hours", type=_hours, metavar="H")


def is_forecast_wanted(arguments: argparse.Namespace, trials: Sequence[Trial]) -> bool:
    """Whether one of the flags was given.

    Raises:
        ValueError: a flag was given without a sweep whose trials are known.
    """
    given = [
        *(["--dry-run"] if arguments.dry_run else []),
        *([f"--max-hours {arguments.max_hours:g}"] if arguments.max_hours is not None else []),
    ]
    if given and not trials:
        raise CommandError(
            f"{given[0]} needs a sweep of known trials (-m, with Hydra's basic sweeper); the cost "
            "of one model is shown by mobilellm explain"
        )
    return bool(given)


def forecast_trials(
    forecast: Callable[..., None], arguments: argparse.Namespace, trials: Sequence[Trial]
) -> None:
    """Call the command's forecast; if no trial is to start, end what the launcher prepared.

    Raises:
        ValueError: the forecast is longer than `--max-hours`.
    """
    is_refused = True
    try:
        forecast(trials, max_hours=arguments.max_hours, is_dry_run=arguments.dry_run)
        is_refused = False
    finally:
        launcher = sweep_launcher_of(trials[0].config.hydra.launcher)
        if launcher is not None and (is_refused or arguments.dry_run):
            launcher.abandon()


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours < 1e9:
        raise argparse.ArgumentTypeError(f"{text} must be a number of hours above 0")
    return hours
