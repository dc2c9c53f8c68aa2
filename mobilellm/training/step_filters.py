"""Extension point for refusing optimizer steps: callbacks with `should_apply` are asked first."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule


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


def step_filters(callbacks: "Iterable[Callback]") -> list[StepFilter]:
    """The callbacks that filter steps, in order."""
    return [callback for callback in callbacks if isinstance(callback, StepFilter)]
