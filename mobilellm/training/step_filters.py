"""Extension point for refusing optimizer steps: callbacks with `should_apply` are asked first."""

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mobilellm.training.ranks import sum_over_ranks

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule

# On these devices, a step is judged on the host before its update: reading a value of a CPU takes
# no time, and MPS has no float64, which the same decision requires.
JUDGED_ON_HOST = ("cpu", "mps")


@runtime_checkable
class StepFilter(Protocol):
    """A callback that decides, for each optimizer step, whether its update is applied."""

    def should_apply(self, module: "LightningModule", loss: float, norm: float) -> bool:
        """Whether the step may change the weights and the optimizer state.

        A refused step and its tokens still count towards the budget.

        Args:
            module: the LanguageModelModule; `global_step` is the number of completed steps.
            loss: cross entropy of the whole step, nats per token, the same on all ranks.
            norm: norm of the whole gradient before clipping, the same on all ranks.
        """
        ...


@runtime_checkable
class DeviceStepFilter(StepFilter, Protocol):
    """A `StepFilter` that can also decide on the device, so that the host need not wait for it."""

    def refuse_on_device(self, module: "LightningModule", loss: Tensor, norm: Tensor) -> Tensor:
        """Whether to refuse the step, as a bool scalar on the device; arguments as scalars there.

        The decision is that of `should_apply`. If that raises an error, this and all later steps
        are refused, and `settle` raises the error.
        """
        ...

    def settle(self) -> None:
        """Read and record what was decided since the last call; waits for the device."""
        ...


class StepGate:
    """Runs optimizer steps, except those that a filter refuses.

    On a GPU, the decision stays there: the optimizer receives it as a tensor, as it does from
    torch's GradScaler. Filters and optimizers that cannot do this are asked on the host, and so are
    those of sharded parameters.

    Args:
        callbacks: those that are filters are asked, in order.
    """

    def __init__(self, callbacks: "Iterable[Callback]" = ()) -> None:
        """Select the filters."""
        self.filters = [callback for callback in callbacks if isinstance(callback, StepFilter)]

    def step(self, module: Any, optimizer: Any, loss: Tensor, norm: Tensor | None) -> None:
        """Run one optimizer step, or refuse it; all ranks do the same.

        Args:
            module: the LanguageModelModule.
            optimizer: its LightningOptimizer.
            loss: this rank's part of the mean loss over all ranks.
            norm: norm of the whole gradient; None if there are no filters.
        """
        if self.filters and norm is not None:
            mean = sum_over_ranks(loss, module.device) / module.trainer.world_size
            if self._stays_on_device(module.device, optimizer.optimizer):
                refusals = [f.refuse_on_device(module, mean, norm) for f in self.filters]  # pyright: ignore[reportAttributeAccessIssue]
                optimizer.optimizer.found_inf = reduce(torch.logical_or, refusals).float()
            elif not all([f.should_apply(module, float(mean), float(norm)) for f in self.filters]):
                # Without gradients, the optimizer counts the refused step and changes no weights.
                optimizer.zero_grad()
        optimizer.step()

    def settle(self) -> None:
        """Let all filters read their decisions."""
        for step_filter in self.filters:
            if isinstance(step_filter, DeviceStepFilter):
                step_filter.settle()

    def _stays_on_device(self, device: torch.device, optimizer: Any) -> bool:
        if device.type in JUDGED_ON_HOST or not can_refuse_on_device(optimizer):
            return False
        return all(isinstance(step_filter, DeviceStepFilter) for step_filter in self.filters)


def can_refuse_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `optimizer.found_inf`, a scalar on the device, prevents an update if it is 1."""
    return getattr(optimizer, "_step_supports_amp_scaling", False) and not any(
        hasattr(parameter, "to_local")
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
