"""Interface of compression recipes, which make a plan for a model and apply it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from mobilellm.compression.plan import LayerwisePlan, Plan
from mobilellm.compression.refinement import RefinedLoss
from mobilellm.compression.selection import select_layers
from mobilellm.models import MobileLLM, ModelConfig

Batch = dict[str, Tensor]
PlanT = TypeVar("PlanT", bound=Plan)


@dataclass(frozen=True)
class Compressed:
    """The result of applying a plan."""

    model: MobileLLM
    """The compressed model."""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error of each compressed layer under the metric of the recipe, by name."""
    refined: dict[str, RefinedLoss] = field(default_factory=dict)
    """Loss of each reconstructed block and of the self-distillation on held-out calibration text,
    before and after; by name."""


@dataclass(frozen=True)
class BudgetUse:
    """A size budget and the part of it that a plan uses.

    The unit is parameters, or parameters read per decoded token.
    """

    limit: str
    """The limit, as given by the user."""
    allowed: float
    """Size that the selected matrices may have."""
    used: float
    """Size that they have after compression."""

    def __str__(self) -> str:
        """A description in one line."""
        unspent = self.used < 0.95 * self.allowed
        return (
            f"{self.limit} allows these matrices {self.allowed:,.0f} parameters, the plan uses "
            f"{self.used:,.0f} ({self.used / self.allowed:.1%})"
            + ("; no shape of the given parts uses more of it" if unspent else "")
        )


class Recipe(ABC, Generic[PlanT]):
    """A compression method with its settings.

    Subclasses are frozen keyword-only dataclasses, which Hydra can instantiate. They implement
    `check`, `plan`, `apply` and `plan_from_dict`; the other methods have defaults.
    """

    needs_training: ClassVar[bool] = False
    """Whether the recipe has an effect only if the model is trained after `apply`."""
    freezes_weights: ClassVar[bool] = False
    """Whether `apply` packs weights, which training cannot change any more."""

    @property
    def measures_inputs(self) -> bool:
        """Whether second moments of the inputs of matrices are measured on the calibration text."""
        return True

    @property
    def refines_weights(self) -> bool:
        """Whether gradient steps change the weights after they are fitted."""
        return False

    @abstractmethod
    def check(self, model: MobileLLM) -> None:
        """Check that the recipe can be applied to `model`, before any data is read.

        Args:
            model: the model, which may be on the meta device.

        Raises:
            ValueError: the recipe cannot be applied, e.g. because a pattern matches no matrix.
        """

    @abstractmethod
    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> PlanT:
        """Make a plan for a model.

        Args:
            model: is not changed.
            calibration: batches of `input_ids` and `labels`, each (batch, seq).

        Raises:
            ValueError: as `check`, or there are too few calibration tokens.
        """

    @abstractmethod
    def apply(self, model: MobileLLM, plan: PlanT, calibration: Sequence[Batch]) -> Compressed:
        """Compress a model according to a plan of this recipe or a part of one.

        The result is deterministic, and `model` is not changed.

        Raises:
            ValueError: the plan belongs to another model or recipe, or there are too few
                calibration tokens.
        """

    @abstractmethod
    def plan_from_dict(self, values: Mapping[str, Any]) -> PlanT:
        """Create a plan of this recipe from the output of its `to_dict`."""

    def layer_names(self, config: ModelConfig) -> tuple[str, ...]:
        """Names of the matrices that the recipe compresses independently.

        They are known before any data is read. The default is none: the recipe compresses the model
        as a whole and cannot be divided into stages.

        Raises:
            ValueError: a pattern matches no matrix.
        """
        return ()

    def configs_after(self, config: ModelConfig) -> list[ModelConfig]:
        """The architectures that may result, regarding heads, widths and blocks.

        They are known before any data is read, so that the losses of a distillation can be checked
        for the compressed student. The default is for recipes that do not change the architecture.
        """
        return [config]

    def finish(self, model: MobileLLM) -> MobileLLM:
        """The model to save at the end of a training run, which computes the same as `model`.

        The default is `model` itself.
        """
        return model

    def budget_use(self, model: MobileLLM, plan: PlanT) -> BudgetUse | None:
        """The size budget and the part of it that a plan uses; None if there is no budget."""
        return None

    def low_rank_twin(self, plan: PlanT) -> "tuple[Recipe, Plan] | None":
        """A recipe and a plan that factorise the same matrices with low rank, for comparison.

        Each matrix has at most as many parameters as in `plan`. None, which is the default, if
        there is no such plan.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class LayerwiseRecipe(Recipe[LayerwisePlan]):
    """A recipe that compresses matrices independently, so that it can be divided into stages."""

    layers: Sequence[str] = ("blocks.*",)
    """Patterns of the names in `ModelConfig.matrix_sizes`, as for `select_layers`."""

    def plan_from_dict(self, values: Mapping[str, Any]) -> LayerwisePlan:
        """The inverse of `LayerwisePlan.to_dict`."""
        return LayerwisePlan.from_dict(values)

    def layer_names(self, config: ModelConfig) -> tuple[str, ...]:
        """Names of the matrices that match the patterns in `layers`.

        Raises:
            ValueError: a pattern matches no matrix.
        """
        return select_layers(config, self.layers)
