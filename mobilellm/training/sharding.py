"""Fully sharded data parallelism, and functions for both replicated and sharded models."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from mobilellm.accounting import count_parameters, packed_parameters


def apply_fully_shard_(model: Any, mesh: Any) -> None:
    """Shard each stored block, and the embedding, norm and head as the root module, over `mesh`.

    A shared block is one module and therefore one FSDP unit, however often it is applied. The root
    stays gathered after the forward pass, because the loss computes the logits outside of it.
    """
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def gradient_sync(wrapped: Any, model: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
    """Let ranks exchange gradients only in the backward pass of a step's last micro-batch.

    Args:
        wrapped: the LightningModule, wrapped by the strategy, e.g. by DDP.
        model: the model in it, sharded or not.
        is_last: whether this is the last micro-batch.
    """
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
        return nullcontext()
    no_sync = getattr(wrapped, "no_sync", None)
    return nullcontext() if is_last or no_sync is None else no_sync()


def check_stored_parameters(model: Any, when: str) -> None:
    """Check that the number of distinct parameters is that of the model's configuration.

    Without this check, training would continue without an error if wrapping, loading or gathering
    copied a shared or tied weight.

    Args:
        model: replicated or sharded model, on any device.
        when: time of the check, for the message, e.g. `after loading`.

    Raises:
        RuntimeError: the numbers differ, which is a bug of the program.
    """
    found = sum(parameter.numel() for parameter in model.parameters())
    found += packed_parameters(model.config)
    stored = count_parameters(model.config).stored
    if found != stored:
        raise RuntimeError(
            f"the model has {found:,} parameters {when}, its configuration stores {stored:,}: "
            "a shared or tied weight was copied, or one is missing"
        )
