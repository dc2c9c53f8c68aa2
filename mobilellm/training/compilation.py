"""torch.compile, block by block."""

from typing import Any


def compile_blocks_(model: Any) -> None:
    """Compile each stored block in place, once however often it is applied.

    Blocks of one shape share the compiled code, so that compile time does not grow with depth;
    names in the state dict stay as they are.
    """
    for block in model.blocks:
        block.compile()
