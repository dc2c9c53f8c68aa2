"""Forecast of the memory of a training step, computed from the configuration.

The forecast includes the tensors that autograd keeps until the backward pass has used them, for the
operations in `mobilellm.models`, and the temporary memory of the largest single operation. The
program itself and the memory that an allocator holds but does not use are not included. On CPUs,
fragmentation in glibc's allocator can double the memory of the process.
"""

import math
from dataclasses import dataclass
from typing import Any

from mobilellm.accounting.activation_memory import Precision, activation_bytes, precision_of
from mobilellm.accounting.parameters import (
    applications,
    block_costs,
    count_parameters,
    head_cost,
    head_name,
    is_adapted,
    matrix_costs,
    packed_parameters,
    trained_parameters,
)
from mobilellm.models.config import ModelConfig, check_choice, check_positive
from mobilellm.units import bytes_text

OPTIMIZERS = ("adamw", "adamw8bit", "muon", "sgd")
# Two codes, and two float32 scales for each block of 256.
BYTES_OF_8_BIT_MOMENTS = 2 * (1 + 4 / 256)

LOSS_CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**28}
"""Largest number of logits in a chunk of `mobilellm.losses.cross_entropy`, by accelerator."""
LOGIT_BYTES = 8
"""Bytes per logit of a chunk: the logit and its log-probability in float32; the gradient replaces
the log-probability. With 16-bit logits, the gradient is also copied to 16 bits."""
BFLOAT16_LOGIT_BYTES = 4
"""Bytes per bfloat16 logit on CUDA devices, where the losses are compiled: the logit and its
gradient."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step needs on one device."""

    weights: int
    """The parameters, packed codes, the masked or rounded copies of masked or fake-quantized
    matrices, and in mixed precision the 16-bit copies that are used in matrix products."""
    gradients: int
    optimizer: int
    activations: int
    """Activations kept for the backward pass, and the gradients of the current block."""
    loss: int
    """The logits of one chunk, and the gradients of the output head for that chunk and for the
    micro-batch."""

    @property
    def total(self) -> int:
        """The sum, which is an upper bound, because not all parts exist at the same time."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss


def optimizer_bytes(
    config: ModelConfig, optimizer: str = "adamw", precision: str = "32-true"
) -> int:
    """Bytes of the optimizer's state.

    AdamW keeps two numbers per parameter, which may be stored in 8 bits. Muon keeps one per weight
    of the two-dimensional matrices in blocks, and two per other parameter, including factors, which
    AdamW updates. SGD without momentum keeps none. The numbers have the type of the weights.

    Raises:
        ValueError: the optimizer or the precision is unknown.
    """
    check_choice("optimizer", optimizer, OPTIMIZERS)
    per_weight = precision_of(precision).weight
    trained = trained_parameters(config)
    if optimizer == "sgd":
        return 0
    if optimizer == "adamw":
        return per_weight * 2 * trained
    if optimizer == "adamw8bit":
        return round(BYTES_OF_8_BIT_MOMENTS * trained)
    of_muon = sum(
        cost.matrix_parameters for _, name, cost in block_costs(config) if _is_trained(config, name)
    )
    return per_weight * (2 * trained - of_muon)


def checkpoint_bytes(
    config: ModelConfig, optimizer: str = "adamw", precision: str = "32-true"
) -> int:
    """Bytes of the tensors in a checkpoint, whatever the number of devices.

    That of a model with adapters holds nothing else.

    On a GPU, training waits for their copy to the host; elsewhere, until they are written and read
    back.

    Raises:
        ValueError: the optimizer or the precision is unknown.
    """
    stored = trained_parameters(config) if is_adapted(config) else count_parameters(config).stored
    weights = precision_of(precision).weight * stored
    return weights + optimizer_bytes(config, optimizer, precision)


def training_memory_bytes(
    config: ModelConfig,
    micro_batch_size: int,
    sequence_length: int,
    *,
    optimizer: str = "adamw",
    precision: str = "32-true",
    activation_checkpointing: bool = False,
    accelerator: str = "cpu",
    num_shards: int = 1,
    document_mask: bool = False,
) -> TrainingMemory:
    """Bytes that a training step needs on one device.

    Args:
        config: the model.
        micro_batch_size: sequences per forward pass.
        sequence_length: tokens.
        optimizer: one of `OPTIMIZERS`.
        precision: one of Lightning's names, e.g. `bf16-mixed`.
        activation_checkpointing: whether only the input of every application of a block is kept.
        accelerator: `cpu`, `mps` or `cuda`; the chunks of the loss are larger on CUDA devices.
        num_shards: number of devices among which weights, gradients and optimizer state are
            sharded (FSDP).
        document_mask: whether attention is restricted to tokens of the same document, which needs
            memory for masks.

    Raises:
        ValueError: a size is below 1, or the optimizer or the precision is unknown.
    """
    check_positive("num_shards", num_shards)
    form = precision_of(precision)
    parameters = count_parameters(config).stored - packed_parameters(config)
    packed = sum(cost.packed_bytes or 0 for cost in matrix_costs(config).values())
    head = head_cost(config)
    head_trained = head.trained if _is_trained(config, head_name(config)) else 0
    copies = _materialized_bytes(config, form)
    if form.is_mixed:
        copies += form.value * (_block_matrices(config) + head.parameters - head.packed)
    allowed = LOSS_CHUNK_LOGITS.get(accelerator, LOSS_CHUNK_LOGITS["cpu"])
    chunk = min(max(1, allowed // config.vocab_size), micro_batch_size * sequence_length)
    return TrainingMemory(
        weights=-(-parameters * form.weight // num_shards) + packed + copies,
        gradients=-(-trained_parameters(config) * form.weight // num_shards),
        optimizer=-(-optimizer_bytes(config, optimizer, precision) // num_shards),
        activations=activation_bytes(
            config,
            micro_batch_size,
            sequence_length,
            precision=precision,
            activation_checkpointing=activation_checkpointing,
            document_mask=document_mask,
            accelerator=accelerator,
        ),
        loss=_logit_bytes(precision, accelerator) * chunk * config.vocab_size
        + 2 * form.weight * head_trained,
    )


def largest_micro_batch(
    config: ModelConfig,
    memory_bytes: float,
    sequence_length: int,
    *,
    divides: int,
    **options: Any,
) -> int:
    """The largest micro-batch size for which a training step fits into `memory_bytes`.

    Args:
        config: the model.
        memory_bytes: memory of one device that the step may use.
        sequence_length: tokens.
        divides: number of sequences per optimizer step and device. The result divides it.
        options: options of `training_memory_bytes`.

    Raises:
        ValueError: even a single sequence does not fit.
    """
    check_positive("divides", divides)
    # Divisors come in pairs, of which one is at most the root.
    low = [size for size in range(1, math.isqrt(divides) + 1) if divides % size == 0]
    sizes = sorted({*low, *(divides // size for size in low)})
    needed = {
        size: training_memory_bytes(config, size, sequence_length, **options).total
        for size in sizes
    }
    fitting = [size for size in sizes if needed[size] <= memory_bytes]
    if not fitting:
        raise ValueError(
            f"one sequence of {sequence_length} tokens needs {bytes_text(needed[1])}, but "
            f"{bytes_text(memory_bytes)} are available; use a shorter sequence_length, "
            "trainer.activation_checkpointing=true, a smaller model, or give micro_batch_size"
        )
    return max(fitting)


def _logit_bytes(precision: str, accelerator: str) -> int:
    """Bytes per logit in a chunk of the loss."""
    is_compiled = accelerator == "cuda" and precision.startswith("bf16")
    return BFLOAT16_LOGIT_BYTES if is_compiled else LOGIT_BYTES


def _materialized_bytes(config: ModelConfig, form: Precision) -> int:
    """Bytes of the weights that every application computes from stored ones and keeps."""
    uses = applications(config)
    costs = matrix_costs(config)
    return form.value * sum(
        uses[name] * costs[name].materialized_values for name in config.layer_shapes
    )


def _block_matrices(config: ModelConfig) -> int:
    """Number of weights in the blocks of which mixed precision makes 16-bit copies."""
    return sum(cost.parameters - cost.packed for _, _, cost in block_costs(config))


def _is_trained(config: ModelConfig, name: str) -> bool:
    """Whether training changes the named matrix: without adapters, every matrix in floats."""
    shape = config.layer_shape(name)
    return not is_adapted(config) or (shape is not None and shape.trains_alone)
