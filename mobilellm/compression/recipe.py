"""What every compression method offers: a plan, and its application to a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

from mobilellm.compression.plan import LayerwisePlan, Plan
from mobilellm.compression.selection import select_layers
from mobilellm.models import MobileLLM, ModelConfig

Batch = dict[str, Tensor]
PlanT = TypeVar("PlanT", bound=Plan)


@dataclass(frozen=True)
class Compressed:
    """What applying a plan gives."""

    model: MobileLLM
    """A new model; tensors of untouched layers are shared with the one it was made from."""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error of each compressed layer on the method's own metric."""


@dataclass(frozen=True)
class Spending:
    """How much of a size budget a plan uses, in parameters, or in parameters read per token."""

    limit: str
    """As the user gave it."""
    allowed: float
    """For the chosen matrices."""
    used: float

    def __str__(self) -> str:
        """One line for people."""
        unspent = self.used < 0.95 * self.allowed
        return (
            f"{self.limit} allows these matrices {self.allowed:,.0f} parameters, the plan uses "
            f"{self.used:,.0f} ({self.used / self.allowed:.1%})"
            + ("; the parts' shapes can use no more of it" if unspent else "")
        )


class Recipe(ABC, Generic[PlanT]):
    """A compression method with its settings: a frozen keyword-only dataclass, built by Hydra.

    A recipe defines `check`, `plan`, `apply` and `plan_from_dict`; the other methods have defaults.
    """

    @abstractmethod
    def check(self, model: MobileLLM) -> None:
        """Refuse what cannot be applied to `model`, before any data is read.

        Args:
            model: may be on the meta device, without weights.

        Raises:
            ValueError: a pattern that matches nothing, a shape that does not divide, and so on.
        """

    @abstractmethod
    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> PlanT:
        """Decide what the model becomes.

        Args:
            model: left as it is.
            calibration: batches of `input_ids` and `labels`, each (batch, seq).

        Raises:
            ValueError: as `check`; too little calibration text.
        """

    @abstractmethod
    def apply(self, model: MobileLLM, plan: PlanT, calibration: Sequence[Batch]) -> Compressed:
        """Compress `model` as a plan of this recipe, or a part of it, says.

        Deterministic: the same arguments give the same weights. `model` is left as it is.

        Raises:
            ValueError: a plan of another model or recipe; too little calibration text.
        """

    @abstractmethod
    def plan_from_dict(self, values: Mapping[str, Any]) -> PlanT:
        """A plan of this recipe, back from what its `to_dict` gave."""

    def layer_names(self, config: ModelConfig) -> tuple[str, ...]:
        """The matrices that it compresses one by one, known before any data is read.

        Empty by default: the model is compressed as a whole and cannot be divided into stages.

        Raises:
            ValueError: a pattern that matches nothing.
        """
        return ()

    def configs_after(self, config: ModelConfig) -> list[ModelConfig]:
        """The architectures that may result, as far as heads, widths and blocks are concerned.

        Asked before any data is read, so that a teacher's losses can be checked against what the
        student will be. By default `config` alone: heads, widths and blocks stay.
        """
        return [config]

    def spending(self, model: MobileLLM, plan: PlanT) -> Spending | None:
        """How much of its size budget a plan for `model` uses; None: it has no such budget."""
        return None

    def low_rank_twin(self, plan: PlanT) -> "tuple[Recipe, Plan] | None":
        """A recipe and its plan for the same matrices by low rank, at most as many parameters each.

        Reports show this model for comparison. None (the default): there is no such model.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class LayerwiseRecipe(Recipe[LayerwisePlan]):
    """A method that compresses matrices one by one, so that it can be divided into stages."""

    layers: Sequence[str] = ("blocks.*",)
    """Patterns over the names of `ModelConfig.matrix_sizes`."""

    def plan_from_dict(self, values: Mapping[str, Any]) -> LayerwisePlan:
        """The inverse of `LayerwisePlan.to_dict`."""
        return LayerwisePlan.from_dict(values)

    def layer_names(self, config: ModelConfig) -> tuple[str, ...]:
        """The matrices that `layers` names.

        Raises:
            ValueError: a pattern that matches nothing.
        """
        return select_layers(config, self.layers)
