"""Parameter counts of a model, computed from its configuration."""

from collections.abc import Iterator
from dataclasses import dataclass

from mobilellm.layers import DENSE, LayerCost
from mobilellm.models.config import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """The four parameter counts by which models are compared."""

    stored: int
    """All parameters in a checkpoint, as `sum(p.numel())` of the model counts them. Masked weights
    are included, and the weights of quantized matrices, which are no `nn.Parameter`."""
    embedding: int
    """The embedding, and the output head if it is not tied to the embedding."""
    body: int
    """stored - embedding: the blocks and the final norm."""
    executed: int
    """Like `stored`, but with each block counted once per application."""


@dataclass(frozen=True)
class MaskedParameterCounts(ParameterCounts):
    """The parameter counts of a model with masked weights."""

    nonzero: int
    """stored minus the number of weights that are masked to zero."""


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Count the parameters of a model without building it.

    Returns:
        The four counts, and `nonzero` if the model has masked weights.

    Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, table 9; the counts agree exactly.
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


def packed_parameters(config: ModelConfig) -> int:
    """Number of stored parameters that are packed codes, which are no parameters of the module."""
    return sum(cost.packed for cost in matrix_costs(config).values())


def is_adapted(config: ModelConfig) -> bool:
    """Whether any matrix has an adapter, so that training changes nothing but the adapters."""
    return any(shape.trains_alone for shape in config.layer_shapes.values())


def trained_parameters(config: ModelConfig) -> int:
    """Number of stored parameters that training changes: those of the adapters, if there are any;
    otherwise all that are not packed codes.
    """
    if not is_adapted(config):
        return count_parameters(config).stored - packed_parameters(config)
    costs = matrix_costs(config)
    return sum(costs[n].trained for n, shape in config.layer_shapes.items() if shape.trains_alone)


def block_parameters(config: ModelConfig) -> list[int]:
    """Number of parameters of each stored block: its matrices and its norms."""
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
    """The cost of the output head, which is the embedding matrix in a tied model."""
    return matrix_costs(config)[head_name(config)]


def head_name(config: ModelConfig) -> str:
    """Name of the matrix that serves as output head."""
    return "embedding" if config.tie_word_embeddings else "head"


def head_dim(config: ModelConfig) -> int:
    """The width of one head, which is never None in a validated configuration.

    Raises:
        ValueError: head_dim is None.
    """
    if config.head_dim is None:
        raise ValueError("head_dim=None has no default here; give head_dim")
    return config.head_dim
