"""Factorisation of matrices into low-rank products, Kronecker products, or sums of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from mobilellm.compression.algorithms.permutation import PermutationSearch
from mobilellm.compression.algorithms.permutation_race import parsed_search
from mobilellm.compression.algorithms.shape_search import (
    ShapeSearch,
    check_parameters,
)
from mobilellm.compression.allocation import searched_budgets
from mobilellm.compression.apply import with_layers
from mobilellm.compression.calibration import TABLES
from mobilellm.compression.division import Division
from mobilellm.compression.forecast import log_forecast
from mobilellm.compression.layer_fit import FITS, LayerFit
from mobilellm.compression.part_templates import PartTemplate, parse_parts
from mobilellm.compression.permutations import absorb_permutations
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.recipe import Batch, BudgetUse, Compressed, LayerwiseRecipe
from mobilellm.compression.reconstruction import Refinements, Settings
from mobilellm.compression.shape_planner import ShapePlanner
from mobilellm.compression.size_budget import LIMITS, SizeBudget
from mobilellm.compression.twin import low_rank_plan
from mobilellm.evaluation.validation import sum_losses
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import MobileLLM
from mobilellm.models.config import check_choice
from mobilellm.ranges import check_fields

ALLOCATIONS = ("uniform", "searched")
PERMUTATIONS = ("none", "absorbed", "stored", "all")


@dataclass(frozen=True, kw_only=True)
class Factorization(LayerwiseRecipe):
    """Replacement of matrices by sums of Kronecker products and low-rank products.

    The sums of parts with different shapes, the search for shapes, and the fit to propagated inputs
    are not from the papers below, and neither is how pivots are selected.

    Raises:
        ValueError: a choice is unknown, or settings contradict each other.

    Source: Edalati et al. 2022, KnGPT-2, arXiv:2110.08152; Abronin et al. 2024, TQCompressor,
    arXiv:2401.16367; Wang et al. 2025, SVD-LLM, arXiv:2403.07378; Zhao et al. 2025, PIFA,
    arXiv:2501.19090 (pivoted low rank).
    """

    budget: SizeBudget | Mapping[str, Any] | None = None
    """Largest size of the compressed matrices. If it is None or has no limit, the sizes follow from
    the parts if all have num_terms; otherwise half of the parameters are kept."""
    parts: Sequence[PartTemplate | Mapping[str, Any]] | None = ()
    """Parts of the sum that replaces a matrix; empty: low rank; None: search a shape per matrix."""
    pivoted: bool = False
    """Whether low-rank parts are stored as some of their rows, and the coefficients by which these
    make the other rows. A rank of r then takes r² numbers fewer, so that a budget allows a higher
    rank."""
    fit: str = "outputs"
    """`weights`: minimise the error of the weights in the Frobenius norm; `outputs`: minimise the
    error of the layer's outputs on the calibration text; `propagated`: approximate the outputs of
    the dense model, given inputs from the layers that are compressed already; `reconstructed`:
    `propagated`, and then all weights and factors of each block are fitted to its output by
    gradient steps."""
    allocation: str = "uniform"
    """`uniform`: keep the same share of each matrix; `searched`: keep more of the matrices that
    affect the loss most."""
    permutations: str = "none"
    """Reordering of rows and columns: `absorbed` by neighbouring layers, which needs no storage;
    `stored` as indices; `all` for both; `none`."""
    shape_search: ShapeSearch = field(default_factory=ShapeSearch)
    permutation_search: PermutationSearch | Mapping[str, Any] | None = None
    """Limits of the search for permutations; None: the default ones."""
    reconstruction: Settings = None
    """Gradient steps of `fit=reconstructed` for each block; None: the default ones."""
    self_distillation: Settings = None
    """Gradient steps on all weights at the end, with the dense model as teacher; None: none."""

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(self)
        check_choice("fit", self.fit, FITS)
        _ = self.refinements
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_choice("permutations", self.permutations, PERMUTATIONS)
        if self.permutation_search is not None and self.permutations == "none":
            raise ValueError(
                "permutation_search has no effect with permutations=none; use permutations=stored, "
                "or permutation_search=null"
            )
        _ = self.search_of_permutations
        if self.parts is not None:
            parts = parse_parts(self.parts or ({},))
            object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "budget", self._resolved_budget())
        if self.is_fixed and self.allocation != "uniform":
            raise ValueError(
                f"allocation={self.allocation} divides a budget among the matrices, but if all "
                "parts have num_terms, there is no budget to divide; give num_terms=null for one "
                "part, or allocation=uniform"
            )
        if self.permutations != "none" and self.is_low_rank:
            raise ValueError(
                f"permutations={self.permutations} has no effect on low rank; give parts with "
                "right factors, or permutations=none"
            )

        if self.pivoted and self.parts is not None and all(p.right for p in self.parts):  # pyright: ignore
            raise ValueError(
                "pivoted=True has no effect, because all parts have right factors; give a part "
                "without them, {num_terms: null}, or pivoted=false"
            )

    @property
    def is_low_rank(self) -> bool:
        """Whether every matrix becomes a low-rank product, without Kronecker parts."""
        return self.parts is not None and all(part.right is None for part in self.parts)  # pyright: ignore

    @property
    def is_fixed(self) -> bool:
        """Whether all parts have num_terms, so that the sizes do not depend on a budget."""
        return self.parts is not None and all(p.num_terms is not None for p in self.parts)  # pyright: ignore

    @cached_property
    def search_of_permutations(self) -> PermutationSearch:
        """The limits of the search for permutations, with the default ones where none are given."""
        return parsed_search(self.permutation_search)

    @cached_property
    def refinements(self) -> Refinements:
        """The gradient steps after all layers are fitted."""
        return Refinements.of_recipe(self.fit, self.reconstruction, self.self_distillation)

    @property
    def measures_inputs(self) -> bool:
        """Whether the fit depends on the inputs of the matrices."""
        return self.fit != "weights"

    @property
    def refines_weights(self) -> bool:
        """Whether gradient steps change the weights after they are fitted."""
        return self.refinements != Refinements()

    @property
    def _layer_fit(self) -> LayerFit:
        return LayerFit(fit=self.fit, permutation_search=self.search_of_permutations)

    def _resolved_budget(self) -> SizeBudget | None:
        if isinstance(self.budget, SizeBudget):
            return self.budget
        if self.budget is None:
            return None if self.is_fixed else SizeBudget(ratio=0.5)
        if self.is_fixed and all(self.budget.get(name) is None for name in LIMITS):
            # Check the settings of the budget that are not limits.
            SizeBudget(**{**self.budget, "ratio": 0.5})
            return None
        return SizeBudget(**self.budget)

    def check(self, model: MobileLLM) -> None:
        """Check that the recipe can be applied to `model`, before any data is read.

        Raises:
            ValueError: a pattern matches nothing, the budget cannot be met, factors do not divide a
                matrix, the plan is larger than the dense weights, or there are no blocks that can
                be reconstructed.
        """
        self.refinements.check(model)
        division = self._division(model)
        if self.fit == "reconstructed" and all(name in TABLES for name in division.names):
            raise ValueError(
                f"fit=reconstructed has no effect, because layers={list(self.layers)} selects no "
                "matrix of a block; use fit=propagated"
            )
        budgets = division.uniform()
        if self.parts is None:
            for name in division.names:
                size = model.config.matrix_sizes[name]
                try:
                    check_parameters(size, budgets[name], self.shape_search, pivoted=self.pivoted)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            return
        shapes = self._planner(model, division).configured(budgets)
        division.check(shapes)
        LayerwisePlan(layers=tuple(
            LayerPlan(name=name, size=model.config.matrix_sizes[name], shape=shape)
            for name, shape in shapes.items()
        ))  # fmt: skip

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> LayerwisePlan:
        """Choose a shape for each matrix, on the calibration text unless `fit` is `weights`.

        Raises:
            ValueError: as `check`, or there are too few calibration tokens.
        """
        self.check(model)
        self.refinements.check_calibration(calibration)
        division = self._division(model)
        if self.allocation == "uniform":
            if self.parts is None:
                self._forecast(model, calibration, division)
            return self._planner(model, division).plan(division.uniform(), calibration)
        self._forecast(model, calibration, division)
        budgets = division.uniform()
        searched = searched_budgets(model, calibration, division, self._layer_fit)
        plans = [
            self._planner(model, division).plan(one, calibration)
            for one in ([budgets] if searched == budgets else [budgets, searched])
        ]
        # The search uses estimates; compare the loss of the models that would be built.
        if len(plans) == 1:
            return plans[0]
        return min(plans, key=lambda plan: self._loss(model, plan, calibration))

    def budget_use(self, model: MobileLLM, plan: LayerwisePlan) -> BudgetUse | None:
        """The budget and the part of it that a plan uses; None if there is no budget."""
        return self._division(model).budget_use(plan.compressed_layers)  # pyright: ignore

    def low_rank_twin(self, plan: LayerwisePlan) -> "tuple[Factorization, LayerwisePlan] | None":
        """A recipe and a plan that factorise the same matrices with low rank, for comparison.

        None if `plan` is low rank already, or if a matrix has too few parameters for rank 1.
        """
        twin = low_rank_plan(plan)
        if twin is None or twin.compressed_layers == plan.compressed_layers:
            return None
        changes = {"parts": (), "pivoted": False, "permutations": "none", "allocation": "uniform",
                   "permutation_search": None}  # fmt: skip
        return replace(self, **changes), twin

    def _loss(self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]) -> float:
        """Calibration loss of the model compressed by `plan`, nats per token."""
        return sum_losses(self.apply(model, plan, calibration).model, calibration).loss

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Fit the planned shapes, layer by layer in the model's order.

        Raises:
            ValueError: there are too few calibration tokens, or a layer is compressed already.
        """
        dense = model
        if self.permutations in ("absorbed", "all"):
            dense = absorb_permutations(model, plan, self.search_of_permutations)
        # All shapes in a plan of this recipe are factorised.
        shapes = cast("dict[str, FactorizedShape]", plan.compressed_layers)
        layers, errors = self._layer_fit.layers(dense, shapes, calibration)
        compressed = with_layers(dense, layers)
        blocks = sorted({int(n.split(".")[1]) for n in layers if n.startswith("blocks.")})
        refined, losses = self.refinements.apply(dense, compressed, calibration, blocks)
        return Compressed(refined, errors, losses)

    def _forecast(
        self,
        model: MobileLLM,
        calibration: Sequence[Batch],
        division: Division,
    ) -> None:
        """Log how long the search will take."""
        first = division.names[0]
        metrics = next(iter(self._layer_fit.metrics(model, calibration, [first])))
        log_forecast(
            model, calibration, metrics[first], division, fit=self.fit,
            allocation=self.allocation,
            shapes=self.shape_search if self.parts is None else None,
        )  # fmt: skip

    def _planner(self, model: MobileLLM, division: Division) -> ShapePlanner:
        return ShapePlanner(
            model=model,
            division=division,
            layer_fit=self._layer_fit,
            search=self.shape_search if self.parts is None else None,
        )

    def _division(self, model: MobileLLM) -> Division:
        return Division(
            config=model.config,
            names=self.layer_names(model.config),
            budget=self.budget,  # pyright: ignore[reportArgumentType]
            parts=(PartTemplate(),) if self.parts is None else self.parts,  # pyright: ignore
            permutations=self.permutations,
            pivoted=self.pivoted,
        )
