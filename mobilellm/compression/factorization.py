"""Factorisation of matrices into low-rank products, Kronecker products, or sums of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from mobilellm.compression.algorithms.metric import Metric, target_weight
from mobilellm.compression.algorithms.permutation import PermutationSearch
from mobilellm.compression.algorithms.shape_search import (
    ShapeSearch,
    check_parameters,
    search_shape,
)
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.allocation import searched_budgets
from mobilellm.compression.apply import dense_weight, with_layers, working_copy
from mobilellm.compression.calibration import TABLES, Moments, gather_moments, metric_of
from mobilellm.compression.division import Division
from mobilellm.compression.forecast import log_forecast
from mobilellm.compression.part_templates import PartTemplate, parse_parts
from mobilellm.compression.permutations import absorb_permutations, permuted_fit, with_permutations
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch, BudgetUse, Compressed, LayerwiseRecipe
from mobilellm.compression.selection import groups_by_input
from mobilellm.compression.size_budget import LIMITS, SizeBudget
from mobilellm.compression.stream_cache import StreamCache
from mobilellm.compression.twin import low_rank_plan
from mobilellm.evaluation.validation import sum_losses
from mobilellm.layers import LayerShape
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import check_choice
from mobilellm.ranges import check_fields

FITS = ("weights", "outputs", "propagated")
ALLOCATIONS = ("uniform", "searched")
PERMUTATIONS = ("none", "absorbed", "stored", "all")


@dataclass(frozen=True, kw_only=True)
class Factorization(LayerwiseRecipe):
    """Replacement of matrices by sums of Kronecker products and low-rank products.

    The sums of parts with different shapes, the search for shapes, and the fit to propagated inputs
    are not from the papers below.

    Raises:
        ValueError: a choice is unknown, or settings contradict each other.

    Source: Edalati et al. 2022, KnGPT-2, arXiv:2110.08152; Abronin et al. 2024, TQCompressor,
    arXiv:2401.16367; Wang et al. 2025, SVD-LLM, arXiv:2403.07378.
    """

    budget: SizeBudget | Mapping[str, Any] | None = None
    """Largest size of the compressed matrices. If it is None or has no limit, the sizes follow from
    the parts if all have num_terms; otherwise half of the parameters are kept."""
    parts: Sequence[PartTemplate | Mapping[str, Any]] | None = ()
    """Parts of the sum that replaces a matrix; empty: low rank; None: search a shape per matrix."""
    fit: str = "outputs"
    """`weights`: minimise the error of the weights in the Frobenius norm; `outputs`: minimise the
    error of the layer's outputs on the calibration text; `propagated`: approximate the outputs of
    the dense model, given inputs from the layers that are compressed already."""
    allocation: str = "uniform"
    """`uniform`: keep the same share of each matrix; `searched`: keep more of the matrices that
    affect the loss most."""
    permutations: str = "none"
    """Reordering of rows and columns: `absorbed` by neighbouring layers, which needs no storage;
    `stored` as indices; `all` for both; `none`."""
    shape_search: ShapeSearch = field(default_factory=ShapeSearch)
    permutation_search: PermutationSearch = field(default_factory=PermutationSearch)

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(self)
        check_choice("fit", self.fit, FITS)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_choice("permutations", self.permutations, PERMUTATIONS)
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

    @property
    def is_low_rank(self) -> bool:
        """Whether every matrix becomes a low-rank product, without Kronecker parts."""
        return self.parts is not None and all(part.right is None for part in self.parts)  # pyright: ignore

    @property
    def is_fixed(self) -> bool:
        """Whether all parts have num_terms, so that the sizes do not depend on a budget."""
        return self.parts is not None and all(p.num_terms is not None for p in self.parts)  # pyright: ignore

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
                matrix, or the plan is larger than the dense weights.
        """
        division = self._division(model)
        budgets = division.uniform()
        if self.parts is None:
            for name in division.names:
                size = model.config.matrix_sizes[name]
                try:
                    check_parameters(size, budgets[name], self.shape_search)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            return
        shapes = self._configured_shapes(division, budgets)
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
        division = self._division(model)
        started = perf_counter()
        metrics = self._metrics(model, calibration, division.names)
        if self.parts is None or self.allocation == "searched":
            log_forecast(
                model, calibration, metrics, division, fit=self.fit, allocation=self.allocation,
                shapes=self.shape_search if self.parts is None else None,
                pass_seconds=perf_counter() - started,
            )  # fmt: skip
        budgets = division.uniform()
        uniform = self._plan_shapes(model, division, budgets, metrics)
        if self.allocation == "uniform":
            return uniform
        searched = searched_budgets(model, calibration, metrics, division)
        if searched == budgets:
            return uniform
        # The search uses estimates; compare the loss of the models that would be built.
        plans = [uniform, self._plan_shapes(model, division, searched, metrics)]
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
        return replace(self, parts=(), permutations="none", allocation="uniform"), twin

    def _loss(self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]) -> float:
        """Calibration loss of the model compressed by `plan`, nats per token."""
        return sum_losses(self.apply(model, plan, calibration).model, calibration).loss

    def _plan_shapes(
        self,
        model: MobileLLM,
        division: Division,
        budgets: Mapping[str, int],
        metrics: Mapping[str, Metric],
    ) -> LayerwisePlan:
        """Plan a shape for each matrix within its budget, and spend the rest on more terms.

        A matrix whose budget is at least its size stays dense.
        """
        fits: dict[str, SumFit] = {}
        if self.parts is not None:
            shapes = self._configured_shapes(division, budgets)
        else:
            smaller = [n for n in division.names if budgets[n] < division.sizes[n]]
            for name in log_progress(smaller, "shapes found"):
                fits[name] = search_shape(
                    dense_weight(model, name), budgets[name], metrics[name], self.shape_search
                )
            found = {n: with_permutations(f.shape, self.permutations) for n, f in fits.items()}
            shapes = division.spend_rest(found, budgets)
        division.check(shapes)
        layers = []
        for name, shape in log_progress(shapes.items(), "errors of the planned shapes"):
            fit = fits.get(name)
            if fit is None or fit.parts != shape.parts:
                fit = SumFit(dense_weight(model, name), shape, metrics[name])
                fit = fit.improve() if self.parts is None else fit
            size = model.config.matrix_sizes[name]
            layers.append(LayerPlan(name=name, size=size, shape=shape, expected_error=fit.error))
        return LayerwisePlan(layers=tuple(layers))

    def _configured_shapes(
        self, division: Division, budgets: Mapping[str, int]
    ) -> dict[str, FactorizedShape]:
        """The shapes with the configured parts, after the rest of the budget is spent."""
        smaller = [n for n in division.names if self.is_fixed or budgets[n] < division.sizes[n]]
        shapes = {name: division.shape_for(name, budgets[name]) for name in smaller}
        return division.spend_rest(shapes, budgets)

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Fit the planned shapes, layer by layer in the model's order.

        Raises:
            ValueError: there are too few calibration tokens, or a layer is compressed already.
        """
        dense = model
        if self.permutations in ("absorbed", "all"):
            dense = absorb_permutations(model, plan, self.permutation_search)
        names = [name for name in model.config.matrix_sizes if name in plan.names]
        shapes: dict[str, LayerShape] = plan.compressed_layers
        fitted: dict[str, FactorizedLinear] = {}
        errors: dict[str, float] = {}
        working = working_copy(dense)
        streams = StreamCache(dense, calibration) if StreamCache.supports(dense) else None
        for group in log_progress(
            self._measured_together(model.config, names), "groups of layers fitted"
        ):
            moments: dict[str, Moments] = {}
            if self.fit == "outputs":
                moments = gather_moments(working, calibration, group)
            elif self.fit == "propagated":
                is_block = group[0] not in TABLES
                if streams is not None and is_block:
                    streams.move_to(int(group[0].split(".")[1]), working)
                run = streams if is_block else None
                moments = gather_moments(working, calibration, group, teacher=dense, run=run)
            for name in group:
                layer, errors[name] = self._fit_layer(dense, name, shapes[name], moments)  # pyright: ignore
                fitted[name] = layer
                if self.fit == "propagated":
                    working = with_layers(working, {name: layer})
        return Compressed(with_layers(dense, fitted), errors)

    def _division(self, model: MobileLLM) -> Division:
        return Division(
            config=model.config,
            names=self.layer_names(model.config),
            budget=self.budget,  # pyright: ignore[reportArgumentType]
            parts=(PartTemplate(),) if self.parts is None else self.parts,  # pyright: ignore
            permutations=self.permutations,
        )

    def _measured_together(self, config: ModelConfig, names: Sequence[str]) -> list[list[str]]:
        """Groups of names whose moments are measured together."""
        return groups_by_input(config, names) if self.fit == "propagated" else [list(names)]

    def _metrics(
        self, model: MobileLLM, calibration: Sequence[Batch], names: Sequence[str]
    ) -> dict[str, Metric]:
        if self.fit == "weights":
            return dict.fromkeys(names, Metric())
        moments = gather_moments(model, calibration, names)
        return {name: metric_of(name, moments[name]) for name in names}

    def _fit_layer(
        self, dense: MobileLLM, name: str, shape: FactorizedShape, moments: Mapping[str, Moments]
    ) -> tuple[FactorizedLinear, float]:
        """The fitted layer of one matrix, and its relative error."""
        weight = dense_weight(dense, name)
        metric, cross = Metric(), None
        if name in moments:
            metric, cross = metric_of(name, moments[name]), moments[name].cross
        goal = weight.double() if name in TABLES else target_weight(weight, metric, cross)
        if shape.row_permutation or shape.column_permutation:
            layer = permuted_fit(goal, shape, metric, self.permutation_search, weight.dtype)
        else:
            layer = SumFit(goal, shape, metric).improve().layer(weight.dtype)
        return layer, metric.relative_error(goal, layer.materialize().detach())
