"""What the forward pass of a training step keeps for the backward pass, and in which precision."""

from collections.abc import Iterator
from dataclasses import dataclass

from mobilellm.accounting.parameters import applications, check_count, head_dim
from mobilellm.models.config import BlockShape, ModelConfig, check_choice


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
        config: the model; shared blocks count as often as they run.
        micro_batch_size: sequences.
        sequence_length: tokens.
        precision: one of Lightning's names, e.g. `bf16-mixed`.
        activation_checkpointing: keep only the input of every application, and compute one block
            at a time again.
        document_mask: whether documents are kept apart. Every application then keeps the mask as
            numbers to be added (tokens x tokens) and, but on CPUs, keys and values repeated for
            every query head.
        accelerator: `cpu`, `mps` or `cuda`.

    Raises:
        ValueError: a size below 1, a precision that is not known.
    """
    check_count("micro_batch_size", micro_batch_size)
    check_count("sequence_length", sequence_length)
    form = precision_of(precision)
    per_block = list(
        _application_bytes(
            config,
            form,
            mask_values=sequence_length if document_mask else 0,
            repeats_heads=document_mask and accelerator != "cpu",
        )
    )
    # The backward pass holds about as much for the block it passes through as the forward kept.
    working = max(kept // uses for kept, uses in zip(per_block, config.block_uses, strict=True))
    if activation_checkpointing:
        kept = config.num_layers * form.residual * config.hidden_size + working
    else:
        kept = sum(per_block)
    ends = 3 * form.residual * config.hidden_size  # the final norm's input, its output, a gradient
    mask = sequence_length if document_mask else 0  # one byte for each pair of tokens
    return micro_batch_size * sequence_length * (kept + working + ends + mask)


def precision_of(name: str) -> Precision:
    """Bytes by Lightning's name of a precision.

    Raises:
        ValueError: a name that is not known.
    """
    check_choice("precision", name, PRECISIONS)
    return PRECISIONS[name]


def _application_bytes(
    config: ModelConfig, form: Precision, *, mask_values: int, repeats_heads: bool
) -> Iterator[int]:
    """What the applications of each stored block keep, in bytes per token, one entry per block.

    Args:
        config: the model.
        form: bytes of numbers.
        mask_values: keys for which each query has a number in its mask.
        repeats_heads: whether keys and values are repeated for every query head.
    """
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
        if repeats_heads and shape.num_key_value_heads < shape.num_attention_heads:
            # Each application repeats them anew; what it repeats is not needed again.
            key_value_passes, key_and_value = repeats, query_and_output
        # SwiGLU keeps gate, up and their product; ReLU its output, which is all it needs.
        kept = 3 if config.feed_forward == "swiglu" else 1
        feed_forward = kept * shape.intermediate_size
        yield (
            repeats * (norms + form.value * (query_and_output + feed_forward + mask_values))
            + key_value_passes * form.value * key_and_value
            + repeats * _head_norm_bytes(config, shape, form)
            + form.value * _compressed_values(config, index)
        )


def _compressed_values(config: ModelConfig, block: int) -> int:
    """Values per token that the compressed layers of one block keep beyond dense ones.

    In all applications of the block.
    """
    sizes, uses = config.matrix_sizes, applications(config)
    return sum(
        # The other matrices share their input, which is kept in any case.
        uses[name]
        * shape.kept_values(sizes[name], input_of_its_own=name.endswith(("o_proj", "down_proj")))
        for name, shape in config.layer_shapes.items()
        if name.startswith(f"blocks.{block}.")
    )


def _head_norm_bytes(config: ModelConfig, shape: BlockShape, form: Precision) -> int:
    """QK-norm keeps queries and keys as they come, in mixed precision also what it scales."""
    kept = {"none": 0, "l2": 1, "rms": 2 if form.is_mixed else 1}[config.qk_norm]
    heads = shape.num_attention_heads + shape.num_key_value_heads
    return kept * heads * head_dim(config) * form.residual
