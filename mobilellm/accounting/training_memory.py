"""Memory of a training step, forecast from the configuration alone.

Counted is what stays alive until the backward pass has used it, by the operations of
`mobilellm.models` as PyTorch differentiates them, and the working space of the largest single
operation; not counted are the program itself and what an allocator leaves unused. On CPUs glibc's
allocator may leave as much unused as it uses, in blocks that are free but do not fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mobilellm.accounting.parameters import (
    applications,
    block_costs,
    check_count,
    count_parameters,
    head_cost,
    head_dim,
)
from mobilellm.compression.shapes import FactorizedShape, MaskedShape
from mobilellm.models.config import BlockShape, ModelConfig, check_choice

OPTIMIZERS = ("adamw", "muon", "sgd")

LOSS_CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**28}
"""Logits that exist at one time in `mobilellm.evaluation.cross_entropy`, by accelerator."""
LOGIT_BYTES = 8
"""Of each of them: itself and its log-probability, which becomes its gradient, in float32."""


@dataclass(frozen=True)
class Precision:
    """Bytes of the numbers of a training step."""

    weight: int
    """Of a weight, its gradient and each of its optimizer states."""
    residual: int
    """Of the residual stream and the norms on it."""
    value: int
    """Of what goes into and comes out of matrix products."""

    @property
    def is_mixed(self) -> bool:
        """Whether values are cast from the residual stream's type for every product."""
        return self.value < self.residual


PRECISIONS = {
    "32-true": Precision(weight=4, residual=4, value=4),
    "bf16-mixed": Precision(weight=4, residual=4, value=2),
    "16-mixed": Precision(weight=4, residual=4, value=2),
    "bf16-true": Precision(weight=2, residual=2, value=2),
}
"""By Lightning's names."""


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
    factors = sum(
        shape.parameters
        for name, shape in config.layer_shapes.items()
        if isinstance(shape, FactorizedShape) and name.startswith("blocks.")
    )
    return per_weight * (2 * stored - (_block_matrices(config) - factors))


def activation_bytes(
    config: ModelConfig,
    micro_batch_size: int,
    sequence_length: int,
    *,
    precision: str = "32-true",
    activation_checkpointing: bool = False,
) -> int:
    """Bytes of the activations at the start of the backward pass.

    Args:
        config: the model; shared blocks count as often as they run.
        micro_batch_size: sequences.
        sequence_length: tokens.
        precision: one of Lightning's names, e.g. `bf16-mixed`.
        activation_checkpointing: keep only the input of every application, and compute one block
            at a time again.

    Raises:
        ValueError: a size below 1, a precision that is not known.
    """
    check_count("micro_batch_size", micro_batch_size)
    check_count("sequence_length", sequence_length)
    form = precision_of(precision)
    per_block = list(_application_bytes(config, form))
    # The backward pass holds about as much for the block it passes through as the forward kept.
    working = max(kept // uses for kept, uses in zip(per_block, config.block_uses, strict=True))
    if activation_checkpointing:
        kept = config.num_layers * form.residual * config.hidden_size + working
    else:
        kept = sum(per_block)
    ends = 3 * form.residual * config.hidden_size  # the final norm's input, its output, a gradient
    return micro_batch_size * sequence_length * (kept + working + ends)


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

    Raises:
        ValueError: a size below 1, an optimizer or precision that is not known.
    """
    check_count("num_shards", num_shards)
    form = precision_of(precision)
    parameters = count_parameters(config).stored
    head = head_cost(config).parameters
    copies = _masked_bytes(config, form)
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
        ),
        loss=LOGIT_BYTES * chunk * config.vocab_size + 2 * form.weight * head,
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
            f"one sequence of {sequence_length} tokens needs {needed[1] / 1e9:.2f} GB, and "
            f"{memory_bytes / 1e9:.2f} GB are there; use a shorter sequence_length, "
            "trainer.activation_checkpointing=true, a smaller model, or give micro_batch_size"
        )
    return max(fitting)


def precision_of(name: str) -> Precision:
    """Bytes by Lightning's name of a precision.

    Raises:
        ValueError: a name that is not known.
    """
    check_choice("precision", name, PRECISIONS)
    return PRECISIONS[name]


def _application_bytes(config: ModelConfig, form: Precision) -> Iterator[int]:
    """What the applications of each stored block keep, in bytes per token, one entry per block."""
    projections = 5 if config.feed_forward == "swiglu" else 4  # that read a norm's output
    uses = config.block_uses
    for index, shape in enumerate(config.block_shapes):
        repeats = uses[index]
        key_value_passes = 1 if config.share_kv == "first" else repeats
        # Two norms keep one tensor each; their outputs feed the projections, which under autocast
        # each keep a cast copy of their own.
        read = projections if form.is_mixed else 2
        norms = config.hidden_size * (2 * form.residual + read * form.value)
        query_and_output = 2 * shape.num_attention_heads * head_dim(config)
        key_and_value = 2 * shape.num_key_value_heads * head_dim(config)
        # SwiGLU keeps gate, up and their product; ReLU its output, which is all it needs.
        kept = 3 if config.feed_forward == "swiglu" else 1
        feed_forward = kept * shape.intermediate_size
        yield (
            repeats * (norms + form.value * (query_and_output + feed_forward))
            + key_value_passes * form.value * key_and_value
            + repeats * _head_norm_bytes(config, shape, form)
            + form.value * _factor_values(config, index)
        )


def _factor_values(config: ModelConfig, block: int) -> int:
    """What the factorised layers of one block keep beyond dense ones, in all its applications.

    Between its two products a part keeps one tensor; where the left factors go first, also the
    input as a transposed copy. The other parts share the input, a copy where it is permuted.
    """
    total, uses = 0, applications(config)
    for name, shape in config.layer_shapes.items():
        if not (isinstance(shape, FactorizedShape) and name.startswith(f"blocks.{block}.")):
            continue
        right_first = [part.right_first for part in shape.parts]
        inputs = right_first.count(False) + any(right_first)
        # A dense layer keeps its input too, unless other layers do so anyway.
        input_of_its_own = name.endswith(("o_proj", "down_proj"))
        as_it_comes = any(right_first) and not shape.column_permutation
        inputs -= input_of_its_own or as_it_comes
        kept = sum(part.inner_size for part in shape.parts) + inputs * shape.shape[1]
        total += uses[name] * kept
    return total


def _masked_bytes(config: ModelConfig, form: Precision) -> int:
    """Masked weights with their zeros, which every application forms and keeps."""
    sizes, uses = config.matrix_sizes, applications(config)
    masked = [n for n, s in config.layer_shapes.items() if isinstance(s, MaskedShape)]
    return form.value * sum(uses[n] * sizes[n][0] * sizes[n][1] for n in masked)


def _block_matrices(config: ModelConfig) -> int:
    return sum(cost.parameters for _, _, cost in block_costs(config))


def _head_norm_bytes(config: ModelConfig, shape: BlockShape, form: Precision) -> int:
    """QK-norm keeps queries and keys as they come, in mixed precision also what it scales."""
    kept = {"none": 0, "l2": 1, "rms": 2 if form.is_mixed else 1}[config.qk_norm]
    heads = shape.num_attention_heads + shape.num_key_value_heads
    return kept * heads * head_dim(config) * form.residual
