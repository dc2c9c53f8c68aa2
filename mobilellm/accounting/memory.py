"""Memory at inference: weights, KV cache, and bytes read per decoded token."""

from collections import Counter

from mobilellm.accounting.parameters import (
    applications,
    block_costs,
    block_parameters,
    count_parameters,
    head_cost,
    head_dim,
    matrix_costs,
)
from mobilellm.models.config import BlockShape, ModelConfig, check_positive

TABLES = ("embedding", "head")
NORM_BITS = 16
"""Bits of a norm's weight if matrices have fewer: quantised formats leave these vectors as they
are."""


def weight_bytes(config: ModelConfig, bits: int, *, embedding_bits: int | None = None) -> int:
    """Bytes of the stored weights at a bit width: `weight_bits` in whole bytes, rounded up.

    Raises:
        ValueError: `bits` or `embedding_bits` is below 1.
    """
    return -(-weight_bits(config, bits, embedding_bits=embedding_bits) // 8)


def weight_bits(config: ModelConfig, bits: int, *, embedding_bits: int | None = None) -> int:
    """Bits of the stored weights, of which the matrices are quantised.

    Every matrix of the blocks counts `bits` per weight (factors of a factorised matrix too, and
    masked weights), the embedding and an untied head `embedding_bits`, and every weight of a norm
    `NORM_BITS`, or `bits` if that is more. Not counted are the scales and offsets of groups of
    weights, padding, masks, stored permutations, and the tokenizer. A matrix that is quantized
    already counts the bits that it is stored in, with its scales and offsets.

    Args:
        config: the model.
        bits: bits per weight of the matrices.
        embedding_bits: bits per weight of the embedding and of an untied head; default: `bits`.

    Raises:
        ValueError: `bits` or `embedding_bits` is below 1.
    """
    embedding_bits = bits if embedding_bits is None else embedding_bits
    check_positive("bits", bits)
    check_positive("embedding_bits", embedding_bits)
    in_blocks = [cost for _, _, cost in block_costs(config)]
    norms = count_parameters(config).body - sum(cost.parameters for cost in in_blocks)
    costs = matrix_costs(config)
    tables = sum(costs[name].stored_bits(embedding_bits) for name in TABLES if name in costs)
    matrices = sum(cost.stored_bits(bits) for cost in in_blocks)
    return matrices + tables + max(bits, NORM_BITS) * norms


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes that one token adds to the KV cache.

    Every application of a block has its own keys and values. With share_kv `first` all applications
    of a block use the keys and values of the first one, so that they are stored once per block.

    Raises:
        ValueError: `bytes_per_value` is below 1.
    """
    check_positive("bytes_per_value", bytes_per_value)
    shapes = config.block_shapes
    keeping = range(config.num_blocks) if config.share_kv == "first" else config.layer_order
    return sum(_kv_values(config, shapes[block]) for block in keeping) * bytes_per_value


def decode_bytes_per_token(
    config: ModelConfig,
    *,
    bits: int = 16,
    context: int = 0,
    kv_bits: int = 16,
    repeats_cached: bool = False,
) -> int:
    """Bytes read from memory to decode one token at batch size 1, which limit the speed on a phone.

    They are the weights of every executed block (with share_kv `first`, a block's projections to
    keys and values are read at its first application only), the final norm, the output head, one
    row of the embedding if it is not tied to the head, and the keys and values of `context` earlier
    tokens.
    Factorised matrices are read as factors, masked matrices in full, and quantized matrices in the
    bits that they are stored in.

    Args:
        config: the model.
        bits: bits per weight of the matrices; norms as in `weight_bits`.
        context: number of tokens in the KV cache.
        kv_bits: bits per entry of a key or value.
        repeats_cached: False: a shared block is read at every application. True: a block that runs
            twice in a row is read once, because it is still in the processor's cache the second
            time (a block of the 125M model has 6.8 MB at 16 bits; phones have caches of 8 to
            32 MB).

    Raises:
        ValueError: `bits` or `kv_bits` is below 1, or `context` is negative.

    Source: Liu et al. 2024, arXiv:2402.14905, section 2.4 and table 7: 2.6 % more time per token
    for twice the layers.
    """
    check_positive("bits", bits)
    check_positive("kv_bits", kv_bits)
    if context < 0:
        raise ValueError(
            f"context={context} must not be negative; give the number of tokens in the KV cache"
        )
    block_reads = _reads(config.layer_order) if repeats_cached else Counter(config.layer_order)
    cache_reads = block_reads if config.share_kv == "first" else Counter(config.layer_order)
    norms = block_parameters(config)
    weights = head_cost(config).stored_bits(bits)
    weights += 0 if config.tie_word_embeddings else _table_row_bits(config, bits)
    uses = applications(config)
    for index, name, cost in block_costs(config):
        norms[index] -= cost.parameters
        weights += min(block_reads[index], uses[name]) * cost.stored_bits(bits)
    vectors = config.hidden_size + sum(block_reads[i] * count for i, count in enumerate(norms))
    weight_bits = weights + vectors * max(bits, NORM_BITS)
    cached_values = sum(
        cache_reads[i] * _kv_values(config, shape) for i, shape in enumerate(config.block_shapes)
    )
    return -(-weight_bits // 8) + -(-context * cached_values * kv_bits // 8)


def _table_row_bits(config: ModelConfig, bits: int) -> int:
    """Bits that are read to look up the embedding of one token."""
    cost = matrix_costs(config)["embedding"]
    if cost.packed_bytes is None:
        return bits * cost.row_parameters
    return -(-cost.stored_bits(bits) // config.vocab_size)


def _kv_values(config: ModelConfig, shape: BlockShape) -> int:
    """Number of entries of one token's keys and values in one block."""
    return 2 * shape.num_key_value_heads * head_dim(config)


def _reads(layer_order: tuple[int, ...]) -> Counter[int]:
    """How often each block is read if a block that runs twice in a row is read once."""
    before = (None, *layer_order)
    return Counter(block for last, block in zip(before, layer_order, strict=False) if block != last)
