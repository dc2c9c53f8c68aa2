"""How many parameters a model has, counted from its configuration alone."""

from dataclasses import dataclass

from mobilellm.models.config import BlockShape, ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """The four counts by which models are compared, in parameters."""

    stored: int
    """All that is saved: what `sum(p.numel())` of the model gives."""
    embedding: int
    """The input table, and the output head where it is not tied to it."""
    body: int
    """stored - embedding: the blocks and the final norm."""
    executed: int
    """stored, with each block counted as often as it runs."""


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """The parameters of a model, without building it.

    Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, table 9, whose counts come out exactly.
    """
    tables = 1 if config.tie_word_embeddings else 2
    embedding = tables * config.vocab_size * config.hidden_size
    blocks = sum(block_parameters(config, shape) for shape in config.block_shapes)
    stored = embedding + blocks + config.hidden_size
    return ParameterCounts(
        stored=stored,
        embedding=embedding,
        body=stored - embedding,
        executed=stored + (config.block_repeats - 1) * blocks,
    )


def block_parameters(config: ModelConfig, shape: BlockShape) -> int:
    """The parameters of one stored block: its matrices and its norms."""
    query_and_output, key_and_value, feed_forward = matrix_parameters(config, shape)
    norms = 2 * config.hidden_size
    if config.qk_norm == "rms":
        norms += 2 * head_dim(config)
    return query_and_output + key_and_value + feed_forward + norms


def matrix_parameters(config: ModelConfig, shape: BlockShape) -> tuple[int, int, int]:
    """The weights of one block's matrices: (queries and output, keys and values, feed-forward)."""
    width = config.hidden_size
    feed_forward_matrices = 3 if config.feed_forward == "swiglu" else 2
    return (
        2 * width * shape.num_attention_heads * head_dim(config),
        2 * width * shape.num_key_value_heads * head_dim(config),
        feed_forward_matrices * width * shape.intermediate_size,
    )


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
