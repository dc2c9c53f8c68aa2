"""What every compression method offers: first a plan, then its application, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from mobilellm.compression.plan import Plan
from mobilellm.models import MobileLLM

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Compressed:
    """What applying a plan gives."""

    model: MobileLLM
    """A new model; tensors of untouched layers are shared with the one it was made from."""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error of each compressed layer on the method's own metric."""


class Recipe(Protocol):
    """A method with its choices: a frozen keyword-only dataclass, built by Hydra.

    A method that changes heads, widths or layers also has `configs_after(config)`: every
    architecture that its plan may lead to, which is asked before any data are read, so that a
    teacher's losses can be checked against what the student will be.
    """

    def check(self, model: MobileLLM) -> None:
        """Refuse what cannot be applied to `model`, before any data is read.

        Raises:
            ValueError: a pattern that matches nothing, a shape that does not divide, and so on.
        """
        ...

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> Plan:
        """What each layer will be; `calibration` has batches of `input_ids` and `labels`."""
        ...

    def apply(self, model: MobileLLM, plan: Plan, calibration: Sequence[Batch]) -> Compressed:
        """Compress the layers of `plan`, which is of this method, or a part of such a plan.

        Deterministic: the same arguments give the same weights. `model` is left as it is.
        """
        ...
