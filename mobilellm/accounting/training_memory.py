"""Memory of a training step, forecast from the configuration alone.

Counted is what stays alive until the backward pass has used it, by the operations of
`mobilellm.models` as PyTorch differentiates them, and the working space of the largest single
operation; not counted are the program itself and what an allocator leaves unused. On CPUs glibc's
allocator may leave as much unused as it uses, in blocks that are free but do not fit.
"""

from dataclasses import dataclass
from typing import Any

from mobilellm.accounting.activation_memory import Precision, activation_bytes, precision_of
from mobilellm.accounting.parameters import (
    applications,
    block_costs,
    check_count,
    count_parameters,
    head_cost,
    matrix_costs,
)
from mobilellm.models.config import ModelConfig, check_choice
from mobilellm.units import bytes_text

OPTIMIZERS = ("adamw", "muon", "sgd")

LOSS_CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**28}
"""Logits that exist at one time in `mobilellm.losses.cross_entropy`, by accelerator."""
LOGIT_BYTES = 8
"""Of each of them: itself and its log-probability, which becomes its gradient, in float32. Of 16
bits, the gradient once more in them."""
BFLOAT16_LOGIT_BYTES = 10
"""On GPUs, where the softmax takes a whole chunk at a time and bfloat16 first becomes float32."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step on one device."""

    weights: int
    """Parameters; copies of masked matrices with their zeros, one for each time they are applied;
    in mixed precision also the copies that products are made with."""
    gradients: int
    optimizer: int
    activations: int
    """Kept for the backward pass, and the gradients of the block it is passing through."""
    loss: int
    """One chunk's logits, and the output head's gradient of that chunk and of the micro-batch."""

    @property
    def total(self) -> int:
        """All of it: an upper bound, since not all of it is alive at one time."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss


def optimizer_bytes(
    config: ModelConfig, optimizer: str = "adamw", precision: str = "32-true"
) -> int:
    """Bytes of the optimizer's state.

    AdamW keeps two numbers per parameter; Muon one per weight of the blocks' matrices and two for
    the rest, factors included, as AdamW; plain SGD none. They have the type of the weights.

    Raises:
        ValueError: an optimizer or precision that is not known.
    """
    check_choice("optimizer", optimizer, OPTIMIZERS)
    per_weight = precision_of(precision).weight
    stored = count_parameters(config).stored
    if optimizer == "sgd":
        return 0
    if optimizer == "adamw":
        return per_weight * 2 * stored
    of_muon = sum(cost.matrix_parameters for _, _, cost in block_costs(config))
    return per_weight * (2 * stored - of_muon)


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
        micro_batch_size: sequences that go through the model at one time.
        sequence_length: tokens.
        optimizer: `adamw`, `muon` or `sgd`.
        precision: one of Lightning's names, e.g. `bf16-mixed`.
        activation_checkpointing: keep only the input of every application of a block.
        accelerator: `cpu`, `mps` or `cuda`: the loss takes larger chunks on a GPU.
        num_shards: devices that share weights, gradients and optimizer state (FSDP).
        document_mask: whether documents are kept apart, by masks that take memory.

    Raises:
        ValueError: a size below 1, an optimizer or precision that is not known.
    """
    check_count("num_shards", num_shards)
    form = precision_of(precision)
    parameters = count_parameters(config).stored
    head = head_cost(config).parameters
    copies = _formed_bytes(config, form)
    if form.is_mixed:
        copies += form.value * (_block_matrices(config) + head)
    allowed = LOSS_CHUNK_LOGITS.get(accelerator, LOSS_CHUNK_LOGITS["cpu"])
    chunk = min(max(1, allowed // config.vocab_size), micro_batch_size * sequence_length)
    return TrainingMemory(
        weights=-(-parameters * form.weight // num_shards) + copies,
        gradients=-(-parameters * form.weight // num_shards),
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
        + 2 * form.weight * head,
    )


def largest_micro_batch(
    config: ModelConfig,
    memory_bytes: float,
    sequence_length: int,
    *,
    divides: int,
    **options: Any,
) -> int:
    """The most sequences per forward pass whose training step fits into `memory_bytes`.

    Args:
        config: the model.
        memory_bytes: of one device, what the step may take.
        sequence_length: tokens.
        divides: sequences per optimizer step and device; the answer divides it.
        options: as of `training_memory_bytes`.

    Raises:
        ValueError: not even one sequence fits.
    """
    check_count("divides", divides)
    sizes = [size for size in range(1, divides + 1) if divides % size == 0]
    needed = {
        size: training_memory_bytes(config, size, sequence_length, **options).total
        for size in sizes
    }
    fitting = [size for size in sizes if needed[size] <= memory_bytes]
    if not fitting:
        raise ValueError(
            f"one sequence of {sequence_length} tokens needs {bytes_text(needed[1])}, and "
            f"{bytes_text(memory_bytes)} are there; use a shorter sequence_length, "
            "trainer.activation_checkpointing=true, a smaller model, or give micro_batch_size"
        )
    return max(fitting)


def _logit_bytes(precision: str, accelerator: str) -> int:
    """Of each logit in a chunk of the loss."""
    is_whole = accelerator != "cpu" and precision.startswith("bf16")
    return BFLOAT16_LOGIT_BYTES if is_whole else LOGIT_BYTES


def _formed_bytes(config: ModelConfig, form: Precision) -> int:
    """Of weights that every application computes from what is stored, and keeps."""
    uses = applications(config)
    costs = matrix_costs(config)
    return form.value * sum(uses[name] * costs[name].formed_values for name in config.layer_shapes)


def _block_matrices(config: ModelConfig) -> int:
    return sum(cost.parameters for _, _, cost in block_costs(config))
