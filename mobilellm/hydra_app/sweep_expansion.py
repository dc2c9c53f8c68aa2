"""Expand a sweep into the overrides of each trial."""

import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mobilellm.hydra_app.configuration import load
from mobilellm.hydra_app.override_text import by_key
from mobilellm.hydra_app.trial import as_typed

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
# One of the values of a sweep: up to a comma outside quotes and brackets.
_ELEMENT = r"""(?:[^,\"'\[\]{}()]|"[^"]*"|'[^']*'|\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\))+"""


def sweep_lines(sweep: DictConfig) -> list[str]:
    """The overrides of the sweep: the experiment's parameters, then those of the command line.

    Args:
        sweep: the configuration of the sweep, `hydra` included.
    """
    sweeper: Any = OmegaConf.to_container(sweep.hydra.sweeper, resolve=False)
    lines = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    return lines + as_typed(sweep.hydra.overrides.task)


def expand(loader: ConfigLoader, sweep: DictConfig) -> list[tuple[list[str], list[str]]]:
    """The overrides of each trial, in the basic sweeper's order: as it passes them, and as typed.

    The sweeper rewrites values, for example `2e4` as `20000.0`.
    """
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides(sweep_lines(sweep))
    typed: dict[str, str] = {}
    for override in parsed:
        typed |= _typed_values(override, parser)
    trials = BasicSweeper.split_arguments(parsed, None)[0]
    return [(trial, [typed.get(override, override) for override in trial]) for trial in trials]


def compose_trial(
    loader: ConfigLoader,
    sweep: DictConfig,
    number: int,
    overrides: list[str],
    varying: Sequence[str],
) -> DictConfig:
    """The configuration of a trial, which also records the keys that are equal in all trials.

    Args:
        loader: Hydra's loader on the configuration folder.
        sweep: the configuration of the sweep.
        number: the number of the trial, from 0.
        overrides: the overrides of the trial.
        varying: keys whose values differ between trials.
    """
    lines = [*as_typed(sweep.hydra.overrides.hydra), *overrides]
    config = load(loader, sweep.hydra.job.config_name, lines, RunMode.RUN)
    OmegaConf.copy_cache(from_config=sweep, to_config=config)
    common = [key for key in by_key(overrides) if key not in varying]
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
        config.hydra.job.config.override_dirname.exclude_keys = common
    return config


def _typed_values(override: Any, parser: Any) -> dict[str, str]:
    """The overrides that the sweeper derives from this one, each with the text that was typed."""
    key, line = override.get_key_element(), override.input_line
    value = line.partition("=")[2]
    if not override.is_sweep_override():
        return {f"{key}={override.get_value_element_as_str()}": line}
    if not hasattr(override.value(), "list"):
        return {}
    found = {}
    for element in re.findall(_ELEMENT, value):
        try:
            [single] = parser.parse_overrides([f"{key}={element.strip()}"])
            found[f"{key}={single.get_value_element_as_str()}"] = f"{key}={element.strip()}"
        except Exception:
            # A nested list, or choice(…): shown in the sweeper's form.
            continue
    return found
