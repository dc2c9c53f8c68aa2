"""A model made of some of another model's layers, e.g. a student of half of its teacher's layers.

The configuration alone is made without torch.

Source: Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 3, which takes every other layer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilellm.models.config import ModelConfig

if TYPE_CHECKING:
    from mobilellm.models.mobilellm import MobileLLM


def check_layers(config: ModelConfig, layers: Sequence[int]) -> None:
    """Check that the selected layers exist.

    Args:
        config: of the whole model.
        layers: positions in `config.layer_order`, from 0.

    Raises:
        ValueError: no layer is selected, or a position is out of range.
    """
    if not layers:
        raise ValueError("init_layers is empty; name at least one layer")
    for layer in layers:
        is_whole = isinstance(layer, int) and not isinstance(layer, bool)
        if not is_whole or not 0 <= layer < config.num_layers:
            raise ValueError(
                f"init_layers names layer {layer!r}; the model applies {config.num_layers} "
                f"layers, numbered from 0 to {config.num_layers - 1}"
            )


def subset_config(config: ModelConfig, layers: Sequence[int]) -> ModelConfig:
    """The architecture that has only the selected layers, each stored as a block of its own.

    Args:
        config: of the whole model.
        layers: positions in `config.layer_order`, in the new order; if a block runs twice, both of
            its applications may be selected, and become two blocks.

    Raises:
        ValueError: no layer is selected, or a position is out of range.
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
        layer_sharing="immediate",  # Other schemes may reorder even single blocks.
        share_kv="own",
        intermediate_size=_one_or_all(shape.intermediate_size for shape in shapes),
        num_attention_heads=_one_or_all(shape.num_attention_heads for shape in shapes),
        num_key_value_heads=_one_or_all(shape.num_key_value_heads for shape in shapes),
        compressed_layers=compressed,
    )


def layer_subset(model: "MobileLLM", layers: Sequence[int]) -> "MobileLLM":
    """A new model of the selected layers, with copies of their weights.

    Embedding, final norm and output head are copied too.

    Args:
        model: is left unchanged.
        layers: as for `subset_config`.

    Raises:
        ValueError: no layer is selected, or a position is out of range.
    """
    # `subset_config` must not load torch: `explain.py` uses it.
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


def _one_or_all(sizes: Iterable[int]) -> int | tuple[int, ...]:
    """One size if all blocks have the same, else one per block."""
    found = tuple(sizes)
    return found[0] if len(set(found)) == 1 else found
