"""torch.compile, block by block."""

import logging
from typing import Any

logger = logging.getLogger(__name__)

# A block is compiled separately for training, validation, masks and sizes of micro-batches.
GRAPHS_PER_BLOCK_KIND = 8


def compile_blocks_(model: Any, *, backend: str = "inductor") -> None:
    """Compile each stored block in place; a shared block is compiled once.

    Blocks of the same shape share the compiled code, so that compile time does not grow with depth.
    Names in the state dict do not change. PyTorch compiles a function at most `recompile_limit` (8)
    times and then runs it uncompiled. Therefore compiled code of earlier models in this process is
    dropped, and the limit is raised with the number of different blocks.

    Args:
        model: model with `blocks`, which are compiled when they first run.
        backend: backend of `torch.compile`.
    """
    from torch import _dynamo

    _dynamo.reset()
    _dynamo.utils.counters.clear()
    limit = GRAPHS_PER_BLOCK_KIND * len({_block_kind(block) for block in model.blocks})
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(_dynamo.config, name, max(limit, getattr(_dynamo.config, name)))
    for block in model.blocks:
        block.compile(backend=backend)


def compiled_graphs() -> int:
    """Number of graphs compiled since the last `compile_blocks_`."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def uncompiled_frames() -> int:
    """Number of frames that PyTorch has left uncompiled since the last `compile_blocks_`."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"] - counters["frames"]["ok"]


def warn_if_uncompiled() -> None:
    """Warn if blocks ran uncompiled, because the measured rates are not those of compiled code."""
    if compiled_graphs() == 0 or uncompiled_frames() > 0:
        logger.warning(
            "trainer.compile=true, but PyTorch compiled %d graphs of the blocks and ran %d frames "
            "uncompiled: the rates are not those of compiled blocks; TORCH_LOGS=recompiles shows "
            "the reason",
            compiled_graphs(),
            uncompiled_frames(),
        )


def _block_kind(block: Any) -> tuple[Any, ...]:
    """A key that is equal for blocks that can share their compiled code."""
    parts = tuple(type(part).__name__ for part in block.modules())
    return parts, tuple(parameter.shape for parameter in block.parameters())
