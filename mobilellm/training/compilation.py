"""torch.compile, block by block."""

import logging
from typing import Any

logger = logging.getLogger(__name__)

# A block is compiled for training, validation, masks and sizes of micro-batches apart.
GRAPHS_PER_FORM = 8


def compile_blocks_(model: Any, *, backend: str = "inductor") -> None:
    """Compile each stored block in place, once however often it is applied.

    Blocks of one shape share the compiled code, so that compile time does not grow with depth;
    names in the state dict stay as they are. What earlier models of the process were compiled to
    is dropped: PyTorch keeps a few versions of one piece of code only (`recompile_limit`, 8), and
    runs it uncompiled for whatever comes later. For the same reason the limit grows with the
    number of different blocks.

    Args:
        model: whose `blocks` are compiled when they first run.
        backend: of `torch.compile`.
    """
    from torch import _dynamo

    _dynamo.reset()
    _dynamo.utils.counters.clear()
    limit = GRAPHS_PER_FORM * len({_form_of(block) for block in model.blocks})
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(_dynamo.config, name, max(limit, getattr(_dynamo.config, name)))
    for block in model.blocks:
        block.compile(backend=backend)


def compiled_graphs() -> int:
    """Graphs that were compiled since the last `compile_blocks_`."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def uncompiled_frames() -> int:
    """Pieces of code that should have been compiled since then and were not."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"] - counters["frames"]["ok"]


def tell_if_uncompiled() -> None:
    """Warn where blocks ran uncompiled, so that nobody takes the rate for a compiled model's."""
    if compiled_graphs() == 0 or uncompiled_frames() > 0:
        logger.warning(
            "trainer.compile=true, but PyTorch compiled %d graphs of the blocks and ran %d pieces "
            "of code uncompiled: the rates are not those of compiled blocks; TORCH_LOGS=recompiles "
            "tells why",
            compiled_graphs(),
            uncompiled_frames(),
        )


def _form_of(block: Any) -> tuple[Any, ...]:
    """What code compiled for one block has in common with that of an equal one."""
    parts = tuple(type(part).__name__ for part in block.modules())
    return parts, tuple(parameter.shape for parameter in block.parameters())
