"""Parse and compose a documented command in this process, without running it."""

import argparse
import importlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from doc_commands import ROOT, Command, entry_point


class ParsedError(BaseException):
    """Ends a command once its arguments are parsed; no handler of the command catches it."""


def compose_trials(config_name: str, line: Sequence[str], *, has_forecast: bool = False) -> int:
    """Compose every trial of a Hydra command line; how many there are.

    Args:
        config_name: of the command.
        line: its arguments.
        has_forecast: whether the command has the flags `--dry-run` and `--max-hours`.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from mobilellm.hydra_app.configuration import compose
    from mobilellm.hydra_app.forecast_flags import add_forecast_flags

    parser = get_args_parser()
    if has_forecast:
        add_forecast_flags(parser)
    arguments = parser.parse_intermixed_args(list(line))
    overrides = list(arguments.overrides)
    if arguments.config_dir:
        overrides.append(f"hydra.searchpath=[file://{Path(arguments.config_dir).absolute()}]")
    if not arguments.multirun:
        compose(config_name, overrides)
        return 1
    parsed = OverridesParser.create().parse_overrides(overrides)
    trials = [
        list(trial) for batch in BasicSweeper.split_arguments(parsed, None) for trial in batch
    ]
    for trial in trials:
        compose(config_name, trial)
    return len(trials)


@contextmanager
def stopped_after_parsing() -> Iterator[None]:
    """Commands parse their arguments and compose their configurations, and then stop."""
    from mobilellm.hydra_app.application import HydraApplication

    parse_args = argparse.ArgumentParser.parse_args
    parse_intermixed = argparse.ArgumentParser.parse_intermixed_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        parse_args(self, *args, **kwargs)
        raise ParsedError

    def compose_and_stop(self: HydraApplication, line: Sequence[str]) -> NoReturn:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            inner.setattr(argparse.ArgumentParser, "parse_intermixed_args", parse_intermixed)
            compose_trials(self.config_name, line, has_forecast=bool(self.forecast))
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(argparse.ArgumentParser, "parse_intermixed_args", parse_and_stop)
        patch.setattr(HydraApplication, "run", compose_and_stop)
        yield


def parse(command: Command) -> None:
    """Run the command's entry point as far as its arguments go.

    Raises:
        ParsedError: the arguments are in order; anything else is the command's own error.
    """
    script = ROOT / "scripts" / f"{command.name.replace('-', '_')}.py"
    with pytest.MonkeyPatch.context() as patch, stopped_after_parsing():
        if command.program == "mobilellm":
            module, _, function = entry_point().partition(":")
            patch.setattr(sys, "argv", list(command.words))
            getattr(importlib.import_module(module), function)()
        else:
            patch.setattr(sys, "argv", [str(script), *command.arguments])
            patch.setattr(sys, "path", [str(script.parent), *sys.path])
            runpy.run_path(str(script), run_name="__main__")
