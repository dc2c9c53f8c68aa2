"""Couplings of a model: matrices that share hidden units or heads."""

from collections.abc import Sequence

from mobilellm.compression.algorithms.coupling import Coupling
from mobilellm.compression.selection import select_layers
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


def selected_couplings(config: ModelConfig, patterns: Sequence[str]) -> tuple[Coupling, ...]:
    """The couplings all of whose matrices match any of the patterns.

    For heads these are also the projections of keys and values.

    Raises:
        ValueError: a pattern matches nothing, or matrices of a coupling match only in part.
    """
    chosen = set(select_layers(config, patterns))
    selected = []
    for coupling in couplings(config):
        members = [*coupling.rows, *coupling.columns]
        if coupling.name.endswith(".heads"):
            parent = coupling.columns[0].rpartition(".")[0]
            members[1:1] = [f"{parent}.k_proj", f"{parent}.v_proj"]
        missing = [name for name in members if name not in chosen]
        if not missing:
            selected.append(coupling)
        elif len(missing) < len(members):
            parent = coupling.columns[0].rpartition(".")[0]
            raise ValueError(
                f"layers={list(patterns)} selects a part of {parent} without {missing[0]}, but "
                f"channels and heads are removed from all of its matrices; give {parent}.*"
            )
    return tuple(selected)
