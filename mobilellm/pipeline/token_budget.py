"""Token limits that depend on the model: tokens per body parameter, or training FLOPs.

Either one is converted to a number of tokens when a run is planned. The run records this number as
`max_tokens`, beside the setting that it follows from, and only the number is part of its identity.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.hydra_app.configuration import config_folder, instantiate
from mobilellm.hydra_app.override_text import override_key, override_value
from mobilellm.models import ModelConfig
from mobilellm.pipeline.adapted_config import adapted_config
from mobilellm.run_settings import DERIVED_LIMITS, EPOCHS, Config
from mobilellm.units import count_text

MAX_TOKENS = "max_tokens"
TOKEN_LIMITS = (MAX_TOKENS, *DERIVED_LIMITS, EPOCHS)
"""The settings that limit the tokens of a run; at most one of them may be given, beside `epochs`.
"""
NULL = ("null", "none", "~", "")


def check_token_limits(config: Config, overrides: Sequence[str]) -> None:
    """Check that at most one setting limits the tokens; the default of `max_tokens` does not count.

    Args:
        config: the configuration as composed, before its token limit is resolved.
        overrides: the overrides of the command line.

    Raises:
        ValueError: two of the settings are given.
    """
    given = [name for name in DERIVED_LIMITS if config.get(name) is not None]
    if not given:
        return
    if _gives_max_tokens(config, overrides):
        given.insert(0, MAX_TOKENS)
    if len(given) > 1:
        values = " and ".join(f"{name}={config[name]:g}" for name in given)
        raise ValueError(
            f"{values} both limit the tokens of a run; keep one of them, and set the other to null "
            f"({given[0]}=null)"
        )


def gives_token_limit(config: Config, overrides: Sequence[str]) -> bool:
    """Whether the tokens of a run are limited by a setting other than `epochs`.

    Args:
        config: the configuration; limits that depend on the model may be resolved already.
        overrides: the overrides of the command line.
    """
    is_derived = any(config.get(name) is not None for name in DERIVED_LIMITS)
    return is_derived or _gives_max_tokens(config, overrides)


def _gives_max_tokens(config: Config, overrides: Sequence[str]) -> bool:
    """Whether `max_tokens` was given on the command line, or differs from its default."""
    if config.get(MAX_TOKENS) is None:
        return False
    typed = [override for override in overrides if override_key(override) == MAX_TOKENS]
    if typed:
        return override_value(typed[-1]).lower() not in NULL
    defaults: Any = OmegaConf.load(config_folder() / "train.yaml")
    return config[MAX_TOKENS] != defaults[MAX_TOKENS]


def without_other_limits(config: dict[str, Any], now: Config, given: set[str]) -> dict[str, Any]:
    """The configuration of an extended run in which the token limit that is given now applies.

    Args:
        config: the settings of the extended run, with those that are given now.
        now: the configuration as composed now.
        given: the keys of the token limits that are given now; if there are none, `config` is
            returned unchanged.
    """
    return config | {name: now.get(name) for name in TOKEN_LIMITS} if given else config


def with_token_limit(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with `max_tokens` as it follows from the model.

    Without `tokens_per_parameter` and `max_flops` it is returned unchanged.

    Args:
        config: the resolved configuration of a run.

    Raises:
        ValueError: the limit is less than one step, or the model is not valid.
    """
    if all(config.get(name) is None for name in DERIVED_LIMITS):
        return config
    model: ModelConfig = instantiate({"model": config["model"]})["model"]
    tokens = derived_tokens(config, model) or 0
    name = "tokens_per_step"
    if isinstance(config[name], str):
        # The recipe rule chooses the size of a step from the tokens: at least one window.
        name = "sequence_length"
    if tokens < config[name]:
        raise ValueError(
            f"{describe_limit(config, model)} gives {tokens:,} tokens, less than one step, "
            f"{name}={config[name]:,}; give more, or smaller steps"
        )
    return config | {MAX_TOKENS: tokens}


def derived_tokens(config: Mapping[str, Any], model: ModelConfig) -> int | None:
    """Training tokens by `tokens_per_parameter` or `max_flops`; None if both are null.

    If the shape meets a budget of body parameters (model=by_budget match=body), this budget counts
    and not the parameters that the shape has, which may differ a little: all shapes that meet the
    same budget get the same number of tokens.

    Tokens are rounded down. FLOPs are those of forward and backward passes, of the model as it is
    when training starts, with the adapter of the configuration if there is one, by
    `mobilellm.accounting.flops_per_token`.
    """
    per_parameter, flops = (config.get(name) for name in DERIVED_LIMITS)
    if per_parameter is not None:
        return int(per_parameter * _body_parameters(config, model))
    if flops is not None:
        return int(flops / _training_flops(config, model))
    return None


def describe_limit(config: Mapping[str, Any], model: ModelConfig) -> str:
    """The setting that the tokens follow from, e.g. `tokens_per_parameter=20 (0.10M body …)`."""
    if config.get(DERIVED_LIMITS[0]) is not None:
        size = f"{count_text(_body_parameters(config, model))} body parameters"
    else:
        size = f"{_training_flops(config, model):,} training FLOPs per token"
    name = next(name for name in DERIVED_LIMITS if config.get(name) is not None)
    return f"{name}={config[name]:g} ({size})"


def _training_flops(config: Mapping[str, Any], model: ModelConfig) -> int:
    return flops_per_token(adapted_config(config, model), config["sequence_length"]).training


def _body_parameters(config: Mapping[str, Any], model: ModelConfig) -> float:
    """The budget of body parameters that the model was made for, or those that it has."""
    node = config.get("model") or {}
    if node.get("match") == "body" and "budget" in node and config.get("init_from") is None:
        return float(node["budget"])
    return count_parameters(model).body
