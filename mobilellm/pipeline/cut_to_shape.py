"""Cuts a model of a given shape from a larger trained model, which inherits its weights."""

from collections.abc import Sequence

from mobilellm.compression.importance_order import sorted_by_importance
from mobilellm.compression.recipe import Batch
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.search.supernet import extract
from mobilellm.search.supernet_shape import check_contained


def cut_most_important(
    parent: MobileLLM, shape: ModelConfig, calibration: Sequence[Batch]
) -> MobileLLM:
    """A model of a shape with the most important blocks, heads, channels and stream entries.

    Blocks, heads and channels are removed by structured pruning, which refits the matrices that
    read them. Then the width is reduced.

    Args:
        parent: the trained model, which is not changed.
        shape: of the new model.
        calibration: batches of `input_ids` and `labels`, each (batch, seq).

    Raises:
        ValueError: see `check_cut`; or there are too few calibration tokens.
    """
    check_cut(parent.config, shape)
    model = parent
    for recipe in pruning_steps(parent.config, shape):
        model = recipe.apply(model, recipe.plan(model, calibration), calibration).model
    if shape.hidden_size < parent.config.hidden_size:
        model = sorted_by_importance(model, calibration)
    return extract(model, shape)


def check_cut(parent: ModelConfig, shape: ModelConfig) -> None:
    """Check that the shape can be cut from the parent by importance.

    Raises:
        ValueError: the parent does not contain the shape, or blocks have different sizes.
    """
    check_contained(parent, shape)
    for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
        for owner, config in (("the model", parent), ("the shape", shape)):
            if isinstance(getattr(config, name), tuple):
                raise ValueError(
                    f"{name} differs between the blocks of {owner}, and importance keeps the same "
                    "number in every block; use units=leading, or the same size for all blocks"
                )


def pruning_steps(parent: ModelConfig, shape: ModelConfig) -> list[StructuredPruning]:
    """The recipes that remove blocks, channels, key-value groups, and query heads of each group.

    Each removes what it names from the result of the one before.
    """
    first: dict[str, float] = {}
    for field, name in (
        ("keep_blocks", "num_blocks"),
        ("keep_channels", "intermediate_size"),
        ("keep_heads", "num_key_value_heads"),
    ):
        if (kept := getattr(shape, name)) < (whole := getattr(parent, name)):
            first[field] = kept / whole
    steps = [StructuredPruning(**first)] if first else []  # pyright: ignore[reportArgumentType]
    sizes = [config.num_attention_heads / config.num_key_value_heads for config in (parent, shape)]  # pyright: ignore
    if sizes[1] < sizes[0]:
        steps.append(StructuredPruning(keep_heads=sizes[1] / sizes[0], head_unit="within_groups"))
    return steps
