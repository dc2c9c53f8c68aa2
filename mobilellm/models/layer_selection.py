"""The architecture that some of a model's layers make. Nothing here imports torch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mobilellm.models.config import ModelConfig


def check_layers(config: ModelConfig, layers: Sequence[int]) -> None:
    """Check a choice of layers, counted by application from 0.

    Raises:
        ValueError: none, or one out of range.
    """
    if not layers:
        raise ValueError("init_layers is empty; name at least one layer")
    for layer in layers:
        is_whole = isinstance(layer, int) and not isinstance(layer, bool)
        if not is_whole or not 0 <= layer < config.num_layers:
            raise ValueError(
                f"init_layers names layer {layer!r}; the model has {config.num_layers} layers, "
                f"counted by application from 0 to {config.num_layers - 1}"
            )


def student_config(config: ModelConfig, layers: Sequence[int]) -> ModelConfig:
    """The architecture with these layers only, each a block of its own.

    Args:
        config: of the whole model.
        layers: applications, in the new order; a block that runs twice gives two.

    Raises:
        ValueError: layers out of range.
    """
    check_layers(config, layers)
    blocks = [config.layer_order[layer] for layer in layers]
    shapes = [config.block_shapes[block] for block in blocks]
    compressed = {
        name.replace(f"blocks.{block}.", f"blocks.{index}.", 1): shape
        for index, block in enumerate(blocks)
        for name, shape in config.compressed_layers
        if name.startswith(f"blocks.{block}.")
    }
    compressed |= {n: s for n, s in config.compressed_layers if not n.startswith("blocks.")}
    return replace(
        config,
        num_blocks=len(blocks),
        block_repeats=1,
        layer_sharing="immediate",  # every scheme of the user's own need not keep the order
        share_kv="own",
        intermediate_size=_one_or_all(shape.intermediate_size for shape in shapes),
        num_attention_heads=_one_or_all(shape.num_attention_heads for shape in shapes),
        num_key_value_heads=_one_or_all(shape.num_key_value_heads for shape in shapes),
        compressed_layers=compressed,
    )


def _one_or_all(sizes: Iterable[int]) -> int | tuple[int, ...]:
    """One size where all blocks have the same."""
    found = tuple(sizes)
    return found[0] if len(set(found)) == 1 else found
