"""The compression recipe of a configuration, for training and for compression without training."""

from collections.abc import Mapping
from typing import Any

from mobilellm.compression.recipe import Recipe
from mobilellm.compression.stage_settings import StageSettings, split_settings
from mobilellm.hydra_app.configuration import instantiate


def make_recipe(node: Mapping[str, Any]) -> tuple[Recipe, StageSettings]:
    """The recipe that the group compression describes, and when it compresses which layers.

    Args:
        node: `compression` of a resolved configuration; not empty.

    Raises:
        ValueError, TypeError: a setting that neither has, or a value out of range.
    """
    recipe, settings = split_settings(node)
    try:
        stage_settings = StageSettings(**settings)
    except ValueError as error:
        raise ValueError(f"compression: {error}") from error
    return instantiate({"compression": recipe})["compression"], stage_settings
