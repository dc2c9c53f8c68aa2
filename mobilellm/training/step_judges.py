"""The seam for refusing a step: a callback that has `accepts` is asked before each update."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class StepJudge(Protocol):
    """What a callback needs in order to be asked."""

    def accepts(self, module: Any, loss: float, norm: float) -> bool:
        """Whether the step may change weights and optimizer state; it is counted all the same.

        Args:
            module: the LanguageModelModule; its `global_step` steps are done.
            loss: cross entropy of the whole step, nats per token, the same on all ranks.
            norm: of the whole gradient before clipping, the same on all ranks.
        """
        ...


def step_judges(callbacks: Iterable[Any]) -> list[StepJudge]:
    """The callbacks that judge steps."""
    return [callback for callback in callbacks if isinstance(callback, StepJudge)]
