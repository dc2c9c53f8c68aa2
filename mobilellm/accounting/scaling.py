"""Step time and communication on many GPUs, in closed form from the configuration alone.

A step is computing, the optimizer's update, and the part of communication that is not hidden behind
computing. Not counted are reading data, validation, checkpoints, ranks that wait for each other,
the handful of scalars that every step exchanges, and the rows that fully sharded matrices are
padded with where the GPUs do not divide them (a third at width 576 on 256 GPUs).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.accounting.activation_memory import precision_of
from mobilellm.accounting.cluster import H100_CLUSTER, Cluster
from mobilellm.accounting.flops import flops_per_token
from mobilellm.accounting.parameters import block_parameters, check_count, count_parameters
from mobilellm.accounting.training_memory import optimizer_bytes
from mobilellm.models.config import ModelConfig, check_choice

STRATEGIES = ("ddp", "fsdp")

BUCKET_BYTES = 25 * 2**20
"""Gradients that DDP collects before it reduces them: PyTorch's `bucket_cap_mb`."""


@dataclass(frozen=True, kw_only=True)
class StepForecast:
    """One optimizer step on `num_gpus` GPUs; tokens are those of all together."""

    num_gpus: int
    tokens_per_step: int
    compute_seconds: float
    optimizer_seconds: float
    communication_bytes: int
    """That each GPU sends."""
    communication_seconds: float
    """If nothing of it were hidden."""
    exposed_seconds: float
    """Not hidden behind computing."""
    step_seconds: float
    """compute + optimizer + exposed."""
    exposed_share: float
    """exposed / step."""
    tokens_per_second: float
    efficiency: float
    """Time of a step with as much work per GPU on one GPU alone, over step_seconds. Above 1 it can
    be with `fsdp`, whose GPUs share the optimizer's update."""


def communication_bytes(
    config: ModelConfig,
    num_gpus: int,
    *,
    strategy: str = "ddp",
    precision: str = "bf16-mixed",
    micro_batches: int = 1,
) -> int:
    """Bytes that each GPU sends in one optimizer step.

    `ddp` reduces the gradients once, after the last micro-batch: 2 (n - 1) / n of their bytes.
    `fsdp` reduces them once as well, for (n - 1) / n of their bytes, and sends as much for every
    gathering: in each micro-batch blocks once for every application, forward and backward; table,
    norm and head, which stay gathered, once. Tied and shared weights have one gradient; but of a
    shared block `fsdp` first reduces what earlier micro-batches left, then what the last one adds.

    Args:
        config: the model.
        num_gpus: n, that share each step.
        strategy: `ddp` or `fsdp`.
        precision: one of Lightning's names; what is sent has the type of the weights.
        micro_batches: forward passes per step and GPU.

    Raises:
        ValueError: a count below 1, an unknown choice.

    Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 7.
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_count("num_gpus", num_gpus)
    check_count("micro_batches", micro_batches)
    width = precision_of(precision).weight
    stored, blocks = count_parameters(config).stored, block_parameters(config)
    if strategy == "ddp":
        sent = 2 * stored
    else:
        rest = stored - sum(blocks)
        gathered = rest + 2 * _weighted(config.block_uses, blocks)
        reduced = rest + _weighted(_block_reductions(config, micro_batches), blocks)
        sent = micro_batches * gathered + reduced
    return round(width * sent * (num_gpus - 1) / num_gpus)


def update_bytes(config: ModelConfig, optimizer: str = "adamw", precision: str = "32-true") -> int:
    """Bytes that the optimizer's update reads and writes: weights and state twice, gradients once.

    Raises:
        ValueError: an optimizer or precision that is not known.
    """
    weights = precision_of(precision).weight * count_parameters(config).stored
    return 3 * weights + 2 * optimizer_bytes(config, optimizer, precision)


def forecast_step(
    config: ModelConfig,
    num_gpus: int,
    *,
    sequences_per_gpu: int,
    sequence_length: int,
    micro_batches: int = 1,
    strategy: str = "ddp",
    optimizer: str = "adamw",
    precision: str = "bf16-mixed",
    activation_checkpointing: bool = False,
    cluster: Cluster = H100_CLUSTER,
) -> StepForecast:
    """Time and communication of one optimizer step.

    DDP hides communication behind the last backward pass, two thirds of a micro-batch; FSDP behind
    all computing. The optimizer's update is bound by memory; Muon's products are not counted.

    Args:
        config: the model.
        num_gpus: that share the step.
        sequences_per_gpu: of one step.
        sequence_length: tokens.
        micro_batches: forward passes that they take.
        strategy: `ddp` or `fsdp`.
        optimizer: `adamw`, `muon` or `sgd`.
        precision: one of Lightning's names.
        activation_checkpointing: the forward pass is computed twice.
        cluster: what is assumed of GPUs and network.

    Raises:
        ValueError: a count below 1, nodes filled in part, an unknown choice.
    """
    check_count("sequences_per_gpu", sequences_per_gpu)
    moved = communication_bytes(
        config, num_gpus, strategy=strategy, precision=precision, micro_batches=micro_batches
    )
    flops = flops_per_token(config, sequence_length)
    work = flops.training + (flops.forward if activation_checkpointing else 0)
    tokens = sequences_per_gpu * sequence_length
    compute = tokens * work / cluster.flops_per_second

    touched = update_bytes(config, optimizer, precision)
    update_alone = touched / cluster.memory_bytes_per_second
    update = update_alone / (num_gpus if strategy == "fsdp" else 1)

    gradients = precision_of(precision).weight * count_parameters(config).stored
    latency = _latency_seconds(config, num_gpus, strategy, gradients, micro_batches, cluster)
    communication = latency + moved / cluster.bytes_per_second(num_gpus)
    hiding = compute if strategy == "fsdp" else 2 / 3 * compute / micro_batches
    exposed = communication - min(cluster.overlap * communication, hiding)
    step = compute + update + exposed
    return StepForecast(
        num_gpus=num_gpus,
        tokens_per_step=tokens * num_gpus,
        compute_seconds=compute,
        optimizer_seconds=update,
        communication_bytes=moved,
        communication_seconds=communication,
        exposed_seconds=exposed,
        step_seconds=step,
        exposed_share=exposed / step,
        tokens_per_second=tokens * num_gpus / step,
        efficiency=(compute + update_alone) / step,
    )


def forecast_scaling(
    config: ModelConfig,
    num_gpus: Sequence[int],
    *,
    tokens_per_step: int,
    sequence_length: int,
    micro_batch_size: int,
    **options: Any,
) -> list[StepForecast]:
    """The same step on more and more GPUs: strong scaling.

    Args:
        config: the model.
        num_gpus: of each forecast.
        tokens_per_step: of all GPUs.
        sequence_length: tokens.
        micro_batch_size: sequences that a GPU takes at one time, at most.
        options: as of `forecast_step`.

    Raises:
        ValueError: GPUs that do not divide the step's sequences; as `forecast_step`.
    """
    forecasts = []
    for count in num_gpus:
        check_count("num_gpus", count)
        check_count("micro_batch_size", micro_batch_size)
        if tokens_per_step % (count * sequence_length):
            raise ValueError(
                f"tokens_per_step={tokens_per_step} must be divisible by num_gpus={count} x "
                f"sequence_length={sequence_length} = {count * sequence_length}"
            )
        sequences = tokens_per_step // sequence_length // count
        forecasts.append(
            forecast_step(
                config,
                count,
                sequences_per_gpu=sequences,
                sequence_length=sequence_length,
                micro_batches=-(-sequences // micro_batch_size),
                **options,
            )
        )
    return forecasts


def _latency_seconds(
    config: ModelConfig,
    num_gpus: int,
    strategy: str,
    gradient_bytes: int,
    micro_batches: int,
    cluster: Cluster,
) -> float:
    """Of all collectives of a step, one after the other."""
    if strategy == "ddp":
        return -(-gradient_bytes // BUCKET_BYTES) * cluster.all_reduce_seconds(num_gpus)
    gatherings = 1 + 2 * config.num_layers
    reductions = 1 + sum(_block_reductions(config, micro_batches))
    collectives = micro_batches * gatherings + reductions
    return collectives * cluster.ring_seconds(num_gpus)


def _block_reductions(config: ModelConfig, micro_batches: int) -> list[int]:
    """How often the gradients of each stored block are reduced in a step."""
    return [2 if uses > 1 and micro_batches > 1 else 1 for uses in config.block_uses]


def _weighted(factors: Iterable[int], amounts: Iterable[int]) -> int:
    return sum(factor * amount for factor, amount in zip(factors, amounts, strict=True))
