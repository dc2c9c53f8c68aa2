"""Chooses the settings that are `auto` by the recipe rule, before a run is built."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from omegaconf import OmegaConf

from mobilellm.hydra_app.configuration import config_folder
from mobilellm.models import ModelConfig
from mobilellm.optim.parametrization import Parametrization
from mobilellm.optim.recipe_rule import RULES, RecipeRule, Setting
from mobilellm.pipeline.identity import RATE
from mobilellm.pipeline.recorded import replaced
from mobilellm.ranges import Range, check_value
from mobilellm.recorded_config import TARGET
from mobilellm.run_settings import Config
from mobilellm.units import join_names

AUTO = "auto"
STEP = "tokens_per_step"
CHOSEN = (STEP, RATE)
"""The settings that the rule can choose."""
CHOSEN_BY_RULE, EXTRAPOLATED = "chosen_by_rule", "rule_extrapolated"
"""Keys of summary.json: the settings that were chosen, and what is outside the fitted ranges."""

SHARE_FOR_GIVEN_WEIGHTS = 0.3
"""Share of the rule's learning rate that is used with given weights, init_from."""
DIGITS = 3
"""Significant digits of a chosen learning rate."""
FUNCTIONS = "mobilellm.optim"
"""The package of the optimizers that have a rule."""
SAME_UPDATE = {"adamw8bit": "adamw"}
"""Optimizers that differ in memory only from one that has a rule."""
SHOWN = 3
"""Largest number of settings in a message that differ from those of the fit."""


@dataclass(frozen=True, kw_only=True)
class RuleChoice:
    """What the rule has chosen for a run."""

    settings: Mapping[str, float]
    """Dotted key and value of each setting that was `auto`."""
    purpose: str
    """What it was chosen for: budget and shape, or a run that keeps its numbers."""
    outside: Sequence[str] = ()
    """One phrase for each quantity that is outside the range of the fit."""

    def __str__(self) -> str:
        """One line for the log."""
        chosen = ", ".join(f"{key}={value:g}" for key, value in self.settings.items())
        extrapolated = f"; extrapolated: {join_names(list(self.outside))}" if self.outside else ""
        return f"recipe rule: {chosen} for {self.purpose}{extrapolated}"

    def without(self, key: str) -> "RuleChoice":
        """The choice without a setting that the rule has not decided after all."""
        kept = {name: value for name, value in self.settings.items() if name != key}
        return replace(self, settings=kept)

    def to_dict(self) -> dict[str, object]:
        """Facts for summary.json."""
        return {CHOSEN_BY_RULE: dict(self.settings), EXTRAPOLATED: list(self.outside)}


NOTHING_CHOSEN = RuleChoice(settings={}, purpose="")


def left_to_rule(config: Config) -> list[str]:
    """The settings that are `auto`.

    Raises:
        ValueError: the learning rate is neither `auto` nor a number.
    """
    values = {key: value_at(config, key) for key in CHOSEN}
    rate = values[RATE]
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float)):
        # Whether a number is in range is checked by the optimizer.
        check_value(RATE, rate, float | Literal["auto"], Range(above=0))
    return [key for key, value in values.items() if value == AUTO]


def apply_recipe_rule(
    config: dict[str, Any],
    model: ModelConfig,
    parametrization: Parametrization | None,
    num_devices: Callable[[], int],
) -> tuple[dict[str, Any], RuleChoice | None]:
    """Replace `tokens_per_step: auto` and `optimizer.learning_rate: auto` by numbers.

    Args:
        config: the resolved configuration of a run; it is not modified.
        model: of the run.
        parametrization: of the run; a learning rate is then chosen for its base shape.
        num_devices: returns the number of devices, each of which needs a window per step.

    Returns:
        The configuration, and what was chosen; None if nothing is `auto`.

    Raises:
        ValueError: there is no rule for the optimizer, or the budget is only a time.
    """
    asked = left_to_rule(config)
    if not asked:
        return config, None
    name = _optimizer_name(config, asked)
    rule = RULES[name]
    tokens = _tokens(config, rule, asked)
    setting = Setting(tokens=tokens, **_shape(model, parametrization))
    chosen: dict[str, float] = {}
    if STEP in asked:
        length = config["sequence_length"]
        chosen[STEP] = length * _windows(rule.best_step(tokens) / length, num_devices())
    if RATE in asked:
        rate = rule.best_rate(setting, chosen.get(STEP) or config[STEP])
        share = SHARE_FOR_GIVEN_WEIGHTS if config["init_from"] else 1.0
        chosen[RATE] = float(f"{share * rate:.{DIGITS}g}")
    choice = RuleChoice(
        settings=chosen,
        purpose=_purpose(config, setting, list(_differing(config, name, rule.schedule))),
        outside=tuple(rule.outside(setting)),
    )
    return with_settings(config, chosen), choice


def with_settings(config: dict[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
    """A copy of the configuration with other values.

    Args:
        config: the configuration; it is not modified.
        settings: dotted keys and values.
    """
    for key, value in settings.items():
        config = replaced(config, key.split("."), value)
    return config


def value_at(config: Config, key: str) -> object:
    """The value of a dotted key; None if it is missing."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _optimizer_name(config: Config, asked: list[str]) -> str:
    package, _, given = str(config["optimizer"][TARGET]).rpartition(".")
    name = SAME_UPDATE.get(given, given)
    if package != FUNCTIONS or name not in RULES:
        raise ValueError(
            f"{_auto(asked)}: there is no recipe rule for the optimizer "
            f"{config['optimizer'][TARGET]}; give numbers, or use optimizer={' or '.join(RULES)}"
        )
    return name


def _tokens(config: Config, rule: RecipeRule, asked: list[str]) -> float:
    """The training tokens of the run."""
    limits = [] if config["max_tokens"] is None else [float(config["max_tokens"])]
    if config["max_steps"] is not None:
        steps, per_step = config["max_steps"], config[STEP]
        limits.append(steps * per_step if per_step != AUTO else rule.tokens_of_steps(steps))
    if not limits:
        raise ValueError(
            f"{_auto(asked)}: the recipe rule needs the number of training tokens; give max_tokens "
            "or max_steps, or numbers for these settings"
        )
    return min(limits)


def _auto(asked: list[str]) -> str:
    return join_names([f"{key}={AUTO}" for key in asked])


def _shape(model: ModelConfig, parametrization: Parametrization | None) -> dict[str, int]:
    if parametrization is None:
        return {"width": model.hidden_size, "depth": model.num_layers}
    base = parametrization.base
    return {"width": base.base_width, "depth": base.base_depth or model.num_layers}


def _windows(best: float, world_size: int) -> int:
    """The power of two nearest to `best`, or the next multiple of the number of devices."""
    windows = 2 ** max(0, round(math.log2(best)))
    return -(-windows // world_size) * world_size


def _purpose(config: Config, setting: Setting, differing: list[str]) -> str:
    parts = [f"{setting.tokens:,.0f} tokens, {setting.depth} layers of width {setting.width}"]
    if config["init_from"]:
        parts.append(f"{SHARE_FOR_GIVEN_WEIGHTS:g} of the rate for random weights")
    if differing:
        more = [f"{len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        parts.append(f"fitted with {join_names([*differing[:SHOWN], *more])}")
    return "; ".join(parts)


def _differing(config: Config, optimizer: str, schedule: str) -> Iterator[str]:
    """The settings of optimizer and schedule with which the rule was fitted, if others are used."""
    for group, choice in (("optimizer", optimizer), ("schedule", schedule)):
        fitted: Any = OmegaConf.to_container(
            OmegaConf.load(config_folder() / group / f"{choice}.yaml")
        )
        if config[group].get(TARGET) != fitted[TARGET]:
            yield f"{group}={choice}"
            continue
        for key, value in fitted.items():
            if f"{group}.{key}" != RATE and config[group].get(key) != value:
                yield f"{group}.{key}={value}"
