"""The parametrisation of a run, and what it changes in the model's configuration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.models import ModelConfig
from mobilellm.models.config import MULTIPLIERS
from mobilellm.optim.parametrization import Parametrization


def build_parametrization(config: Mapping[str, Any]) -> Parametrization | None:
    """The parametrisation that the configuration of a run describes; None: `standard`.

    Raises:
        ValueError: what it refuses, or a node that describes something else.
    """
    # Runs of earlier versions have no such group.
    node = config.get("parametrization") or None
    if node is None:
        return None
    found = instantiate({"parametrization": node})["parametrization"]
    if not isinstance(found, Parametrization):
        raise ValueError(
            f"parametrization._target_={node['_target_']} makes no parametrisation; use "
            "parametrization=standard, mup or completep"
        )
    return found


def parametrized_model(
    model: ModelConfig, parametrization: Parametrization | None, init_from: str | None
) -> ModelConfig:
    """The configuration of a run's model with its multipliers.

    Args:
        model: as configured, or that of the given weights.
        parametrization: of the run.
        init_from: folder of given weights, whose function must not change.

    Raises:
        ValueError: a base shape from which the model cannot be scaled; given weights that were
            trained with other multipliers.
    """
    if parametrization is None:
        return model
    if init_from is None:
        try:
            return parametrization.configured(model)
        except ValueError as error:
            raise ValueError(f"parametrization: {error}") from error
    wanted = parametrization.configured(replace(model, **dict.fromkeys(MULTIPLIERS, 1.0)))
    for name in MULTIPLIERS:
        own, asked = getattr(model, name), getattr(wanted, name)
        if own != asked:
            raise ValueError(
                f"init_from={init_from} was trained with {name}={own:g}, and the parametrisation "
                f"needs {asked:g}; use the one that it was trained with, or "
                "parametrization=standard, which keeps the multipliers of given weights"
            )
    return model
