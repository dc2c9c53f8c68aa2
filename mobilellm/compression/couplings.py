"""Couplings of a model: matrices that share hidden units or heads."""

from mobilellm.compression.algorithms.coupling import Coupling
from mobilellm.models.config import ModelConfig


def couplings(config: ModelConfig) -> tuple[Coupling, ...]:
    """The couplings of the `hidden` units and of the query `heads` of every stored block.

    Hidden units may be reordered freely, and query heads within the group that shares a key-value
    head, because neither rotary embeddings nor norms depend on the index of a head. A shared block
    is listed once.
    """
    found = []
    for index, shape in enumerate(config.block_shapes):
        block = f"blocks.{index}"
        inputs = ("gate_proj", "up_proj") if config.feed_forward == "swiglu" else ("up_proj",)
        hidden = Coupling(
            name=f"{block}.hidden",
            rows=tuple(f"{block}.feed_forward.{name}" for name in inputs),
            columns=(f"{block}.feed_forward.down_proj",),
            num_units=shape.intermediate_size,
        )
        heads = Coupling(
            name=f"{block}.heads",
            rows=(f"{block}.attention.q_proj",),
            columns=(f"{block}.attention.o_proj",),
            num_units=shape.num_attention_heads,
            unit=config.head_dim,  # pyright: ignore[reportArgumentType]
            groups=shape.num_key_value_heads,
        )
        found += [hidden, heads]
    return tuple(found)
