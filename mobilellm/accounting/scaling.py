"""Forecast of step time and communication on many GPUs, computed from the configuration.

The time of a step is the sum of computation, the optimizer's update, and the communication that
does not overlap with computation. Data loading, validation, checkpoints, waiting for slower ranks
and the few scalars that are exchanged in every step are not counted. Neither is the padding of
fully sharded matrices whose rows are not divisible by the number of GPUs (a third at width 576 on
256 GPUs).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.accounting.activation_memory import precision_of
from mobilellm.accounting.cluster import H100_CLUSTER, Cluster
from mobilellm.accounting.flops import flops_per_token
from mobilellm.accounting.parameters import (
    block_parameters,
    count_parameters,
    is_adapted,
    trained_parameters,
)
from mobilellm.accounting.training_memory import optimizer_bytes
from mobilellm.models.config import ModelConfig, check_choice, check_positive

STRATEGIES = ("ddp", "fsdp")

BUCKET_BYTES = 25 * 2**20
"""Bytes of gradients that DDP reduces in one operation: PyTorch's `bucket_cap_mb`."""


@dataclass(frozen=True, kw_only=True)
class StepForecast:
    """Forecast of one optimizer step on `num_gpus` GPUs; tokens are summed over all GPUs."""

    num_gpus: int
    tokens_per_step: int
    compute_seconds: float
    optimizer_seconds: float
    communication_bytes: int
    """Bytes that each GPU sends."""
    communication_seconds: float
    """Duration of all communication, whether or not it overlaps with computation."""
    exposed_seconds: float
    """Duration of the communication that does not overlap with computation."""
    step_seconds: float
    """compute_seconds + optimizer_seconds + exposed_seconds."""
    exposed_share: float
    """exposed_seconds / step_seconds."""
    tokens_per_second: float
    efficiency: float
    """Time that a single GPU needs for the same work per GPU, over step_seconds. It can exceed 1
    with `fsdp`, because the GPUs divide the optimizer's update among them."""


def communication_bytes(
    config: ModelConfig,
    num_gpus: int,
    *,
    strategy: str = "ddp",
    precision: str = "bf16-mixed",
    micro_batches: int = 1,
) -> int:
    """Bytes that each GPU sends in one optimizer step.

    With n GPUs, `ddp` all-reduces the gradients once, after the last micro-batch, which sends
    2 (n - 1) / n of their bytes. `fsdp` reduce-scatters the gradients, which sends (n - 1) / n of
    their bytes, and each all-gather of weights sends the same amount. In each micro-batch it
    gathers a block twice per application (forward and backward), and the embedding, norm and head
    once, because they stay gathered. Tied and shared weights have one gradient. However, with
    several micro-batches `fsdp` reduces the gradient of a shared block twice: that of the earlier
    micro-batches and that of the last one.

    Args:
        config: the model.
        num_gpus: n, the number of GPUs that share a step.
        strategy: `ddp` or `fsdp`.
        precision: one of Lightning's names; gradients and weights are sent in the weights' type.
        micro_batches: forward passes per step and GPU.

    Raises:
        ValueError: a count is below 1, or a choice is unknown.

    Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 7.
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_positive("num_gpus", num_gpus)
    check_positive("micro_batches", micro_batches)
    width = precision_of(precision).weight
    stored, blocks = count_parameters(config).stored, block_parameters(config)
    if strategy == "ddp":
        sent = 2 * _gradients(config)
    else:
        rest = stored - sum(blocks)
        gathered = rest + 2 * _weighted_sum(config.block_uses, blocks)
        reduced = rest + _weighted_sum(_block_reductions(config, micro_batches), blocks)
        sent = micro_batches * gathered + reduced
    return round(width * sent * (num_gpus - 1) / num_gpus)


def update_bytes(config: ModelConfig, optimizer: str = "adamw", precision: str = "32-true") -> int:
    """Bytes that the optimizer's update reads and writes: weights and state twice, gradients once.

    Raises:
        ValueError: the optimizer or the precision is unknown.
    """
    weights = precision_of(precision).weight * _gradients(config)
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

    With DDP, communication overlaps with the last backward pass, which is two thirds of a
    micro-batch; with FSDP it overlaps with all computation. The optimizer's update is limited by
    memory bandwidth; the matrix products of Muon are not counted.

    Args:
        config: the model.
        num_gpus: number of GPUs that share the step.
        sequences_per_gpu: sequences per GPU and step.
        sequence_length: tokens.
        micro_batches: forward passes per GPU and step.
        strategy: `ddp` or `fsdp`.
        optimizer: `adamw`, `muon` or `sgd`.
        precision: one of Lightning's names.
        activation_checkpointing: whether the forward pass is computed a second time.
        cluster: the assumed GPUs and network.

    Raises:
        ValueError: a count is below 1, a node is used only in part, or a choice is unknown.
    """
    check_positive("sequences_per_gpu", sequences_per_gpu)
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

    gradients = precision_of(precision).weight * _gradients(config)
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
    """Forecasts of the same step for several numbers of GPUs (strong scaling).

    Args:
        config: the model.
        num_gpus: number of GPUs of each forecast.
        tokens_per_step: tokens per step, summed over all GPUs.
        sequence_length: tokens.
        micro_batch_size: largest number of sequences per forward pass on a GPU.
        options: options of `forecast_step`.

    Raises:
        ValueError: as `forecast_step`, or the sequences of a step are not divisible by a number of
            GPUs.
    """
    forecasts = []
    for count in num_gpus:
        check_positive("num_gpus", count)
        check_positive("micro_batch_size", micro_batch_size)
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
    """Total latency of all collective operations of a step, which run one after the other."""
    if strategy == "ddp":
        return -(-gradient_bytes // BUCKET_BYTES) * cluster.all_reduce_seconds(num_gpus)
    gatherings = 1 + 2 * config.num_layers
    reductions = 1 + sum(_block_reductions(config, micro_batches))
    collectives = micro_batches * gatherings + reductions
    return collectives * cluster.ring_seconds(num_gpus)


def _gradients(config: ModelConfig) -> int:
    """Number of gradients: of the adapters, if there are any; otherwise of all parameters."""
    return trained_parameters(config) if is_adapted(config) else count_parameters(config).stored


def _block_reductions(config: ModelConfig, micro_batches: int) -> list[int]:
    """How often the gradients of each stored block are reduced in a step."""
    return [2 if uses > 1 and micro_batches > 1 else 1 for uses in config.block_uses]


def _weighted_sum(factors: Iterable[int], amounts: Iterable[int]) -> int:
    return sum(factor * amount for factor, amount in zip(factors, amounts, strict=True))
