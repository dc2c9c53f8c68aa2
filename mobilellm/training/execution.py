"""How the computations of a training are executed: options for speed and memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.training.compilation import compile_blocks_
from mobilellm.training.float8 import use_float8_

if TYPE_CHECKING:
    from mobilellm.models import MobileLLM


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Options that change speed and memory, and results by rounding at most."""

    compile: bool = False
    """Compile each block."""
    activation_checkpointing: bool = False
    """Keep only each block's input, and recompute its activations in the backward pass."""
    float8: bool = False
    """Multiply the matrices of the blocks in 8-bit floating point."""
    cuda_graph: bool = False
    """Launch forward and backward pass as one CUDA graph."""

    def prepare_(self, model: "MobileLLM", *, for_training: bool) -> None:
        """Apply the options to a model, in place.

        Raises:
            ModuleNotFoundError, ValueError: see `use_float8_`.
        """
        model.set_activation_checkpointing(self.activation_checkpointing)
        if self.float8 and for_training:
            use_float8_(model)
        if self.compile and for_training:
            compile_blocks_(model)

    def describe(self) -> Iterator[str]:
        """Yield a phrase for each option that the user would otherwise not see at work."""
        if self.compile:
            yield "blocks compiled when they first run"
        if self.float8:
            yield "float8 in blocks"
        if self.cuda_graph:
            yield "one CUDA graph per micro-batch"
