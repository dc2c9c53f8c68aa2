"""Where scales of the inputs of matrices are folded in, so that they cost nothing.

A scale s of an input multiplies a column of every matrix that reads the input. It divides what
makes the input: an entry of a norm's weight, or a row of another matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.apply import with_layers
from mobilellm.models import MobileLLM, ModelConfig


@dataclass(frozen=True)
class ScaledInput:
    """An input whose entries can be scaled."""

    readers: tuple[str, ...]
    """Names of all matrices that read the input."""
    producer: str
    """Name of the norm, or of the matrix, that makes the input."""
    head_dim: int = 1
    """Width of one head of the input; 1 if it has no heads."""
    repeats: int = 1
    """Number of neighbouring heads of the input that are weighted sums of the same rows."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of all matrices that the scales change."""
        is_norm = self.producer.endswith("norm")
        return self.readers if is_norm else (*self.readers, self.producer)

    def mean_over_repeats(self, inputs: Float[Tensor, " inputs"]) -> Float[Tensor, " rows"]:
        """Means over the entries that belong to the same row of the producer: (in,) -> (rows,)."""
        return inputs.view(-1, self.repeats, self.head_dim).mean(1).flatten()

    def repeat(self, rows: Float[Tensor, " rows"]) -> Float[Tensor, " inputs"]:
        """One value per input from one per row of the producer: (rows,) -> (in,)."""
        heads = rows.view(-1, 1, self.head_dim)
        return heads.expand(-1, self.repeats, -1).flatten()


def scaled_inputs(config: ModelConfig) -> tuple[ScaledInput, ...]:
    """The inputs of a model that can be scaled, in the order of `config.matrix_sizes`.

    The input of a tied head cannot be scaled, because its matrix is also the token embedding.
    """
    found = []
    for index, shape in enumerate(config.block_shapes):
        attention, feed = f"blocks.{index}.attention", f"blocks.{index}.feed_forward"
        gate = (f"{feed}.gate_proj",) if config.feed_forward == "swiglu" else ()
        found += [
            ScaledInput(
                tuple(f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj")),
                f"blocks.{index}.attention_norm",
            ),
            # The output of attention is a weighted mean of values, in each of its entries.
            ScaledInput(
                (f"{attention}.o_proj",),
                f"{attention}.v_proj",
                head_dim=config.head_dim or 1,
                repeats=shape.num_attention_heads // shape.num_key_value_heads,
            ),
            ScaledInput((*gate, f"{feed}.up_proj"), f"blocks.{index}.feed_forward_norm"),
            # silu(gate) × up, and relu(up), are proportional to up for scales above zero.
            ScaledInput((f"{feed}.down_proj",), f"{feed}.up_proj"),
        ]
    if not config.tie_word_embeddings:
        found.append(ScaledInput(("head",), "norm"))
    return tuple(found)


@torch.no_grad()
def with_scaled_inputs(
    model: MobileLLM, scales: Mapping[ScaledInput, Float[Tensor, " rows"]]
) -> MobileLLM:
    """A copy of `model` with scales folded in, which computes the same function.

    Args:
        model: is not changed; all matrices that the scales change are dense.
        scales: for each input one number above zero per row of its producer.
    """
    scaled = with_layers(model, {})
    for one, rows in scales.items():
        fold_scales_(scaled, one, rows)
    return scaled


@torch.no_grad()
def fold_scales_(model: MobileLLM, one: ScaledInput, rows: Float[Tensor, " rows"]) -> None:
    """Fold the scales of one input into the weights of `model`, which then computes the same.

    Args:
        model: all matrices that the scales change are dense.
        one: the input.
        rows: one number above zero per row of its producer.
    """
    parameters = dict(model.named_parameters())
    for name in one.readers:
        weight = parameters[f"{name}.weight"]
        weight.copy_(weight * one.repeat(rows).to(weight.dtype))
    made = parameters[f"{one.producer}.weight"]
    divisors = rows.to(made.dtype)
    made.copy_(made / (divisors if made.dim() == 1 else divisors.unsqueeze(1)))
