"""Creation of a model from a subset of the layers of another model, e.g. of a student for
distillation.

`subset_config` does not import torch.

Source: Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 3, which takes every other layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilellm.models.config import ModelConfig, one_or_each

if TYPE_CHECKING:
    from mobilellm.models.mobilellm import MobileLLM


def check_layers(
    config: ModelConfig, layers: Sequence[int], *, setting: str = "init_layers"
) -> None:
    """Check that the selected layers exist.

    Args:
        config: configuration of the whole model.
        layers: indices into `config.layer_order`.
        setting: what the user calls them.

    Raises:
        ValueError: no layer is selected, or a position is out of range.
    """
    if not layers:
        raise ValueError(f"{setting} is empty; give at least one layer")
    for layer in layers:
        is_whole = isinstance(layer, int) and not isinstance(layer, bool)
        if not is_whole or not 0 <= layer < config.num_layers:
            raise ValueError(
                f"{setting} contains {layer!r}, but the model has {config.num_layers} layers; "
                f"give whole numbers from 0 to {config.num_layers - 1}"
            )


def subset_config(
    config: ModelConfig, layers: Sequence[int], *, setting: str = "init_layers"
) -> ModelConfig:
    """The configuration of a model with only the selected layers, each stored as a separate block.

    Args:
        config: configuration of the whole model.
        layers: indices into `config.layer_order`, in the new order. If several applications of a
            shared block are selected, each becomes a separate block.
        setting: what the user calls the layers.

    Raises:
        ValueError: no layer is selected, or a position is out of range.
    """
    check_layers(config, layers, setting=setting)
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
        layer_sharing="immediate",  # Other schemes may change the order.
        share_kv="own",
        intermediate_size=one_or_each([shape.intermediate_size for shape in shapes]),
        num_attention_heads=one_or_each([shape.num_attention_heads for shape in shapes]),
        num_key_value_heads=one_or_each([shape.num_key_value_heads for shape in shapes]),
        compressed_layers=compressed,
    )


def layer_subset(model: "MobileLLM", layers: Sequence[int]) -> "MobileLLM":
    """Create a model from the selected layers, with copies of their weights.

    The embedding, the final norm and the output head are copied as well.

    Args:
        model: the whole model, which is not changed.
        layers: as for `subset_config`.

    Raises:
        ValueError: no layer is selected, or a position is out of range.
    """
    # `explain` uses `subset_config` and must not import torch.
    from mobilellm.models.mobilellm import MobileLLM

    subset = MobileLLM(subset_config(model.config, layers))
    for name in ("embedding", "norm", "head"):
        part = getattr(model, name)
        if part is not None:
            getattr(subset, name).load_state_dict(part.state_dict())
    for block, layer in zip(subset.blocks, layers, strict=True):
        source = model.blocks[model.config.layer_order[layer]]
        block.load_state_dict(source.state_dict())
    return subset
