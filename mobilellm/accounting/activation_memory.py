"""Memory of the activations that a training step saves for the backward pass."""

from collections.abc import Iterator
from dataclasses import dataclass

from mobilellm.accounting.parameters import applications, head_dim
from mobilellm.models.config import BlockShape, ModelConfig, check_choice, check_positive
from mobilellm.models.kernels import LEAST_FLEXIBLE_HEAD_DIM


@dataclass(frozen=True)
class Precision:
    """Bytes per number in a training step."""

    weight: int
    """Bytes of a weight, of its gradient and of each of its optimizer states."""
    residual: int
    """Bytes of a value of the residual stream and of its norms."""
    value: int
    """Bytes of an input or output of a matrix product."""

    @property
    def is_mixed(self) -> bool:
        """Whether inputs of matrix products are cast from the type of the residual stream."""
        return self.value < self.residual


PRECISIONS = {
    "32-true": Precision(weight=4, residual=4, value=4),
    "bf16-mixed": Precision(weight=4, residual=4, value=2),
    "16-mixed": Precision(weight=4, residual=4, value=2),
    "bf16-true": Precision(weight=2, residual=2, value=2),
}
"""Precisions by Lightning's names."""


def activation_bytes(
    config: ModelConfig,
    micro_batch_size: int,
    sequence_length: int,
    *,
    precision: str = "32-true",
    activation_checkpointing: bool = False,
    document_mask: bool = False,
    accelerator: str = "cpu",
) -> int:
    """Bytes of the activations at the start of the backward pass.

    Args:
        config: the model; shared blocks are counted once per application.
        micro_batch_size: sequences per forward pass.
        sequence_length: tokens per sequence.
        precision: one of Lightning's names, e.g. `bf16-mixed`.
        activation_checkpointing: whether only the input of every layer is saved, and the backward
            pass recomputes one layer at a time.
        document_mask: whether attention is restricted to tokens of the same document. Except with
            FlexAttention on NVIDIA GPUs, every application then saves an additive mask
            (tokens x tokens) and, except on CPUs, keys and values that are repeated for every query
            head.
        accelerator: `cpu`, `mps` or `cuda`.

    Raises:
        ValueError: a size is below 1, or the precision is unknown.
    """
    check_positive("micro_batch_size", micro_batch_size)
    check_positive("sequence_length", sequence_length)
    form = precision_of(precision)
    is_flexible = accelerator == "cuda" and head_dim(config) >= LEAST_FLEXIBLE_HEAD_DIM
    is_dense = document_mask and not is_flexible
    per_block = list(
        _application_bytes(
            config,
            form,
            mask_values=sequence_length if is_dense else 0,
            repeats_heads=is_dense and accelerator != "cpu",
        )
    )
    # For the current block, the backward pass needs about as much memory as the forward pass kept.
    working = max(kept // uses for kept, uses in zip(per_block, config.block_uses, strict=True))
    if activation_checkpointing:
        kept = config.num_layers * form.residual * config.hidden_size + working
    else:
        kept = sum(per_block)
    ends = 3 * form.residual * config.hidden_size  # Final norm: input, output and a gradient.
    # One byte for each pair of tokens; FlexAttention keeps only the blocks that follow from them.
    mask = sequence_length if document_mask else 0
    return micro_batch_size * sequence_length * (kept + working + ends + mask)


def precision_of(name: str) -> Precision:
    """Look up a precision by its name in Lightning.

    Raises:
        ValueError: the name is unknown.
    """
    check_choice("precision", name, PRECISIONS)
    return PRECISIONS[name]


def _application_bytes(
    config: ModelConfig, form: Precision, *, mask_values: int, repeats_heads: bool
) -> Iterator[int]:
    """Bytes per token that all applications of a block keep, for each stored block.

    Args:
        config: the model.
        form: the precision.
        mask_values: length of each query's row of the mask; 0 without a mask.
        repeats_heads: whether keys and values are repeated for every query head.
    """
    uses = config.block_uses
    for index, shape in enumerate(config.block_shapes):
        repeats = uses[index]
        key_value_passes = 1 if config.share_kv == "first" else repeats
        # Two norms keep one tensor each. Their outputs are the inputs of the projections, which
        # share one cast copy under autocast.
        norms = config.hidden_size * (2 * form.residual + 2 * form.value)
        query_and_output = 2 * shape.num_attention_heads * head_dim(config)
        key_and_value = 2 * shape.num_key_value_heads * head_dim(config)
        if repeats_heads and shape.num_key_value_heads < shape.num_attention_heads:
            # Each application keeps its own repeated copy; the original is not needed again.
            key_value_passes, key_and_value = repeats, query_and_output
        # SwiGLU keeps gate, up and their product; ReLU keeps only its output.
        kept = 3 if config.feed_forward == "swiglu" else 1
        feed_forward = kept * shape.intermediate_size
        yield (
            repeats * (norms + form.value * (query_and_output + feed_forward + mask_values))
            + key_value_passes * form.value * key_and_value
            + repeats * _head_norm_bytes(config, shape, form)
            + form.value * _compressed_values(config, index)
            + _flags(config, index)
        )


def _compressed_values(config: ModelConfig, block: int) -> int:
    """Values per token that compressed layers of one block keep in addition to those of dense ones.

    The sum is over all applications of the block.
    """
    sizes, uses = config.matrix_sizes, applications(config)
    return sum(
        # The inputs of the other matrices are shared and are counted above.
        uses[name]
        * shape.saved_values(sizes[name], has_own_input=name.endswith(("o_proj", "down_proj")))
        for name, shape in config.layer_shapes.items()
        if name.startswith(f"blocks.{block}.")
    )


def _flags(config: ModelConfig, block: int) -> int:
    """Truth values per token that all applications of one block keep, of one byte each."""
    sizes, uses = config.matrix_sizes, applications(config)
    return sum(
        uses[name] * shape.saved_flags(sizes[name])
        for name, shape in config.layer_shapes.items()
        if name.startswith(f"blocks.{block}.")
    )


def _head_norm_bytes(config: ModelConfig, shape: BlockShape, form: Precision) -> int:
    """Bytes per token and application that QK-norm keeps.

    It keeps the queries and keys before the norm, and with RMS norm in mixed precision also the
    normalised ones before they are scaled.
    """
    kept = {"none": 0, "l2": 1, "rms": 2 if form.is_mixed else 1}[config.qk_norm]
    heads = shape.num_attention_heads + shape.num_key_value_heads
    return kept * heads * head_dim(config) * form.residual
