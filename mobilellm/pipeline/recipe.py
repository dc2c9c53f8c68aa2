"""The compression recipe of a configuration, for training and for compression without training."""

from mobilellm.compression.recipe import Recipe
from mobilellm.compression.stage_settings import StageSettings, split_settings
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.run_settings import Config


def make_recipe(node: Config) -> tuple[Recipe, StageSettings]:
    """Build the recipe and the stage settings that the group compression describes.

    Args:
        node: the node `compression` of a resolved configuration; not empty.

    Raises:
        ValueError, TypeError: a setting does not exist, or a value is out of range.
    """
    recipe, settings = split_settings(node)
    try:
        stage_settings = StageSettings(**settings)
    except ValueError as error:
        raise ValueError(f"compression: {error}") from error
    return instantiate({"compression": recipe})["compression"], stage_settings
