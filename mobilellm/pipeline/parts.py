"""Parts that several commands make from a configuration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mobilellm.hydra_app.configuration import instantiate

if TYPE_CHECKING:
    from mobilellm.compression.recipe import Recipe
    from mobilellm.compression.stage_settings import StageSettings


def make_recipe(node: Mapping[str, Any]) -> "tuple[Recipe, StageSettings]":
    """The recipe that the group compression describes, and when it is applied to which layers.

    Args:
        node: `compression` of a resolved configuration; not empty.

    Raises:
        ValueError, TypeError: a setting that neither has, or a value out of range.
    """
    from mobilellm.compression.stage_settings import StageSettings, split_settings

    recipe, settings = split_settings({str(key): node[key] for key in node})
    try:
        stage_settings = StageSettings(**settings)
    except ValueError as error:
        raise ValueError(f"compression: {error}") from error
    return instantiate({"compression": recipe})["compression"], stage_settings
