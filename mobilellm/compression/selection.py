"""Selection of matrices of a model by patterns of their names."""

from collections.abc import Iterable, Sequence

from mobilellm.models import ModelConfig
from mobilellm.models.matrix_patterns import matching_matrices


def select_layers(config: ModelConfig, patterns: Sequence[str]) -> tuple[str, ...]:
    """Select the dense matrices whose names match any of `patterns`, in the order of the model.

    Args:
        config: configuration of the model.
        patterns: see `mobilellm.models.matrix_patterns`.

    Raises:
        ValueError: a pattern matches nothing (a tied head has no matrix of its own), or only
            matrices that are compressed already.
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    chosen: set[str] = set()
    for pattern in patterns:
        both_ends = "the compressed matrix is then used for both"
        matching = {*matching_matrices(config, pattern, setting="layers", both_ends=both_ends)}
        compressed = {name for name in matching if config.layer_shape(name) is not None}
        if compressed == matching:
            raise ValueError(
                f"layers={pattern!r} matches only matrices that are compressed already "
                f"({', '.join(sorted(compressed)[:3])}); compress the dense model, or select "
                "other layers"
            )
        chosen |= matching - compressed
    if not chosen:
        raise ValueError("layers is empty; give patterns such as blocks.*.feed_forward.*")
    return tuple(name for name in config.matrix_sizes if name in chosen)


def by_depth(config: ModelConfig, names: Iterable[str]) -> list[str]:
    """Sort the named matrices by their first use in a forward pass.

    The result differs from the order of block indices if the sharing scheme runs the blocks in
    another order.
    """
    first_use = {block: place for place, block in enumerate(dict.fromkeys(config.layer_order))}
    places = {}
    for index, name in enumerate(config.matrix_sizes):
        depth = {"embedding": -1, "head": config.num_blocks}.get(name)
        places[name] = (first_use[int(name.split(".")[1])] if depth is None else depth, index)
    return sorted(names, key=places.__getitem__)


def block_of(name: str) -> str:
    """The block that a matrix belongs to, e.g. `blocks.3`; `embedding` or `head` for a table."""
    return ".".join(name.split(".")[:2])


def groups_by_input(config: ModelConfig, names: Sequence[str]) -> list[list[str]]:
    """Group the named matrices by their input; the groups are sorted by depth."""
    groups: dict[str, list[str]] = {}
    for name in by_depth(config, names):
        groups.setdefault(_input_of(name), []).append(name)
    return list(groups.values())


def _input_of(name: str) -> str:
    """A key that is equal for matrices with the same input."""
    parent, _, kind = name.rpartition(".")
    shared = {"q_proj": "x", "k_proj": "x", "v_proj": "x", "gate_proj": "x", "up_proj": "x"}
    return f"{parent}.{shared.get(kind, kind)}"
