"""Fully sharded data parallelism."""

from typing import Any


def apply_fully_shard_(model: Any, mesh: Any) -> None:
    """Shard each stored block, and the table, norm and head as the root, over `mesh`.

    A shared block is one module and so one unit, however often it is applied. The root stays
    gathered after the forward pass, since the loss unembeds outside of it.
    """
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
