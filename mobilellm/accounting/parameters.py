"""How many parameters a model has, counted from its configuration alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from mobilellm.layers import DENSE, LayerCost
from mobilellm.models.config import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """The four counts by which models are compared, in parameters."""

    stored: int
    """All that is saved: what `sum(p.numel())` of the model gives. Masked weights are saved too."""
    embedding: int
    """The input table, and the output head where it is not tied to it."""
    body: int
    """stored - embedding: the blocks and the final norm."""
    executed: int
    """stored, with each block counted as often as it runs."""


@dataclass(frozen=True)
class MaskedParameterCounts(ParameterCounts):
    """The counts of a model of which some weights are masked."""

    nonzero: int
    """stored, without the weights that are masked to zero."""


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """The parameters of a model, without building it.

    Returns:
        The four counts; with `nonzero` where weights are masked.

    Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, table 9, whose counts come out exactly.
    """
    costs = matrix_costs(config)
    embedding = costs["embedding"].parameters
    embedding += 0 if config.tie_word_embeddings else costs["head"].parameters
    blocks = block_parameters(config)
    stored = embedding + sum(blocks) + config.hidden_size
    repeated = sum((uses - 1) * n for uses, n in zip(config.block_uses, blocks, strict=True))
    counts = ParameterCounts(
        stored=stored,
        embedding=embedding,
        body=stored - embedding,
        executed=stored + repeated,
    )
    masked = [cost.masked for cost in costs.values() if cost.masked is not None]
    return MaskedParameterCounts(**vars(counts), nonzero=stored - sum(masked)) if masked else counts


def block_parameters(config: ModelConfig) -> list[int]:
    """The parameters of every stored block: its matrices and its norms."""
    norms = 2 * config.hidden_size
    if config.qk_norm == "rms":
        norms += 2 * head_dim(config)
    counts = [norms] * config.num_blocks
    for index, _, cost in block_costs(config):
        counts[index] += cost.parameters
    return counts


def matrix_costs(config: ModelConfig) -> dict[str, LayerCost]:
    """The cost of every stored matrix, by its name in `config.matrix_sizes`."""
    shapes = config.layer_shapes
    return {name: shapes.get(name, DENSE).cost(size) for name, size in config.matrix_sizes.items()}


def block_costs(config: ModelConfig) -> Iterator[tuple[int, str, LayerCost]]:
    """Block, name and cost of every matrix that is in a block."""
    for name, cost in matrix_costs(config).items():
        if name.startswith("blocks."):
            yield int(name.split(".")[1]), name, cost


def applications(config: ModelConfig) -> dict[str, int]:
    """How often a forward pass uses each stored matrix, by its name in `config.matrix_sizes`."""
    uses, share_kv = config.block_uses, config.share_kv == "first"
    counts = {}
    for name in config.matrix_sizes:
        if not name.startswith("blocks."):
            counts[name] = 2 if name == "embedding" and config.tie_word_embeddings else 1
        elif share_kv and name.endswith(("k_proj", "v_proj")):
            counts[name] = 1
        else:
            counts[name] = uses[int(name.split(".")[1])]
    return counts


def head_cost(config: ModelConfig) -> LayerCost:
    """The cost of the output head, which a tied model stores as its token table."""
    return matrix_costs(config)["embedding" if config.tie_word_embeddings else "head"]


def head_dim(config: ModelConfig) -> int:
    """The width of one head, which a checked configuration always has.

    Raises:
        ValueError: the configuration has none.
    """
    if config.head_dim is None:
        raise ValueError("head_dim=None is not known; give head_dim")
    return config.head_dim


def check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
