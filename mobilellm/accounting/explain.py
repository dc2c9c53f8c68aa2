"""Parameters, FLOPs, memory and training time of one model, for `mobilellm explain`."""

from dataclasses import asdict
from typing import Any

from mobilellm.accounting.flops import flops_per_token
from mobilellm.accounting.memory import (
    decode_bytes_per_token,
    kv_cache_bytes_per_token,
    weight_bytes,
)
from mobilellm.accounting.parameters import (
    count_parameters,
    is_adapted,
    matrix_costs,
    trained_parameters,
)
from mobilellm.accounting.storage import is_quantized, stored_tensors
from mobilellm.accounting.training_memory import checkpoint_bytes, training_memory_bytes
from mobilellm.layers import summarize
from mobilellm.models.config import ModelConfig, check_positive

WEIGHT_BITS = (4, 8, 16, 32)
FLOAT_BITS = (16, 32)
"""Bits of the weights that are not quantized."""

TOKENS_PER_PARAMETER = 20
"""Default number of training tokens. Source: Hoffmann et al. 2022, arXiv:2203.15556."""

ASSUMED_RATES = {
    "cpu": (1e11, "two CPU cores"),
    "mps": (4e12, "a laptop's GPU"),
    "cuda": (1.25e14, "40 % of an A100's peak in bf16"),
}
"""Default FLOP/s per accelerator, with a description of the hardware."""


def explain_model(config: ModelConfig, sequence_length: int) -> dict[str, Any]:
    """Parameters, FLOPs and memory of a model at inference.

    Args:
        config: the model.
        sequence_length: number of tokens, for attention and for the context of decoding.

    Returns:
        Plain data for JSON: the configuration, `parameters`, `flops_per_token`,
        `kv_cache_bytes_per_token` (16 bits), `weight_bytes` and `decode_bytes_per_token` by bits
        per weight, and, if there are any, `compressed_layers` (see `compressed_kinds`) and `file`
        (see `file_sizes`).

    Raises:
        ValueError: the sequence is longer than the context.
    """
    if sequence_length > config.max_position_embeddings:
        raise ValueError(
            f"sequence_length={sequence_length} is longer than "
            f"max_position_embeddings={config.max_position_embeddings}; use at most that, or raise "
            "model.max_position_embeddings"
        )
    compressed = compressed_kinds(config)
    storage = file_sizes(config)
    return (
        {
            "model": config.to_dict() | {"num_layers": config.num_layers},
            "sequence_length": sequence_length,
            "parameters": asdict(count_parameters(config)),
            "flops_per_token": asdict(flops_per_token(config, sequence_length)),
            "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config),
            "weight_bytes": {str(bits): weight_bytes(config, bits) for bits in WEIGHT_BITS},
            "decode_bytes_per_token": {
                str(bits): decode_bytes_per_token(config, bits=bits, context=sequence_length)
                for bits in WEIGHT_BITS
            },
            "decode_bytes_per_token_repeats_cached": {
                str(bits): decode_bytes_per_token(
                    config, bits=bits, context=sequence_length, repeats_cached=True
                )
                for bits in WEIGHT_BITS
            },
        }
        | ({"compressed_layers": compressed} if compressed else {})
        | ({"file": storage} if storage else {})
    )


def file_sizes(config: ModelConfig) -> dict[str, Any]:
    """The size of the file of a model with quantized matrices; empty for other models.

    Returns:
        `bytes` and `bits_per_weight` of all tensors, each by the bits of those that are not
        quantized, and the kinds of these tensors (`in_floats`).
    """
    if not is_quantized(config):
        return {}
    tensors = {bits: stored_tensors(config, bits) for bits in FLOAT_BITS}
    total = {bits: sum(one.bits for one in found) for bits, found in tensors.items()}
    stored = count_parameters(config).stored
    return {
        "bytes": {str(bits): -(-amount // 8) for bits, amount in total.items()},
        "bits_per_weight": {str(bits): amount / stored for bits, amount in total.items()},
        "in_floats": [one.kind for one in tensors[FLOAT_BITS[0]] if not one.is_quantized],
    }


def compressed_kinds(config: ModelConfig) -> list[dict[str, Any]]:
    """Summarise the compressed matrices, with one entry per kind of matrix for all blocks.

    Returns:
        For each kind of matrix (`embedding`, `q_proj`, …) that is compressed: the number of
        compressed matrices (`compressed`) among all of this kind (`of`), their stored parameters
        (`parameters`) and those of dense ones (`dense`), and a description (`stored_as`); of
        quantized matrices also their `bytes` and `bits_per_weight`.
    """
    sizes, costs = config.matrix_sizes, matrix_costs(config)
    kinds: dict[str, list[str]] = {}
    for name in sizes:
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    rows = []
    for kind, members in kinds.items():
        shapes = {n: s for n in members if (s := config.layer_shape(n)) is not None}
        if not shapes:
            continue
        dense = sum(sizes[name][0] * sizes[name][1] for name in shapes)
        parameters = sum(costs[name].parameters for name in shapes)
        row = {
            "matrix": kind,
            "compressed": len(shapes),
            "of": len(members),
            "parameters": parameters,
            "dense": dense,
            "stored_as": summarize(list(shapes.values()), [sizes[name] for name in shapes]),
        }
        if all(costs[name].packed_bytes is not None for name in shapes):
            amount = sum(costs[name].stored_bits(max(FLOAT_BITS)) for name in shapes) // 8
            row |= {"bytes": amount, "bits_per_weight": 8 * amount / parameters}
        rows.append(row)
    return rows


def explain_training(
    config: ModelConfig,
    sequence_length: int,
    *,
    micro_batch_size: int,
    max_tokens: float | None = None,
    accelerator: str = "cpu",
    flops_per_second: float | None = None,
    num_devices: int = 1,
    **memory_options: Any,
) -> dict[str, Any]:
    """Forecast the memory and the time of training a model.

    Args:
        config: the model.
        sequence_length: number of tokens.
        micro_batch_size: sequences per device and forward pass.
        max_tokens: number of training tokens; default: 20 per stored parameter.
        accelerator: `cpu`, `mps` or `cuda`; determines the default of flops_per_second.
        flops_per_second: FLOP/s that one device reaches in training.
        num_devices: number of devices that share the work.
        memory_options: options of `training_memory_bytes`.

    Returns:
        Plain data for JSON: `training_memory_bytes`, `checkpoint_bytes`, `training_time` and the
        options.

    Raises:
        ValueError: a size is not positive, or a choice is unknown.
    """
    check_positive("num_devices", num_devices)
    memory = training_memory_bytes(
        config, micro_batch_size, sequence_length, accelerator=accelerator, **memory_options
    )
    tokens = max_tokens or TOKENS_PER_PARAMETER * count_parameters(config).stored
    rate, assumed = ASSUMED_RATES.get(accelerator, ASSUMED_RATES["cpu"])
    if flops_per_second is not None:
        rate, assumed = float(flops_per_second), "given"
    if not (tokens > 0 and rate > 0):
        raise ValueError(
            f"max_tokens={max_tokens} and flops_per_second={flops_per_second} must be above 0; "
            "leave them out for the defaults"
        )
    flops = flops_per_token(config, sequence_length).training * tokens
    trained = {"trained_parameters": trained_parameters(config)} if is_adapted(config) else {}
    return trained | {
        "training_memory_bytes": asdict(memory) | {"total": memory.total},
        "checkpoint_bytes": checkpoint_bytes(
            config,
            memory_options.get("optimizer", "adamw"),
            memory_options.get("precision", "32-true"),
        ),
        "training_time": {
            "max_tokens": int(tokens),
            "flops": int(flops),
            "flops_per_second": rate,
            "rate_of": assumed,
            "num_devices": num_devices,
            "seconds": flops / rate / num_devices,
        },
        "micro_batch_size": micro_batch_size,
        "accelerator": accelerator,
        **memory_options,
    }
