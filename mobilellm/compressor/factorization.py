"""Factorising matrices of a model: low rank, Kronecker products, or sums of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mobilellm.compression.layers import FactorizedLinear
from mobilellm.compression.metric import Metric, target_weight
from mobilellm.compression.permutation import PermutationSearch
from mobilellm.compression.shape_search import ShapeSearch, search_shape
from mobilellm.compression.shapes import FactorizedShape, LayerShape
from mobilellm.compression.sums import SumFit
from mobilellm.compressor.apply import dense_weight, with_layers, working_copy
from mobilellm.compressor.budget import CompressionBudget, uniform_budgets
from mobilellm.compressor.calibration import TABLES, Moments, check_tokens, gather_moments
from mobilellm.compressor.parts import PartTemplate, parse_parts, shape_from_parts
from mobilellm.compressor.permuting import absorb_permutations, permuted_fit, with_permutations
from mobilellm.compressor.plan import LayerPlan, Plan
from mobilellm.compressor.prefix import Prefix
from mobilellm.compressor.progress import told
from mobilellm.compressor.recipe import Batch, Compressed
from mobilellm.compressor.selection import select_layers
from mobilellm.compressor.sensitivity import searched_budgets
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM
from mobilellm.models.config import check_choice

FITS = ("weights", "outputs", "propagated")
ALLOCATIONS = ("uniform", "searched")
PERMUTATIONS = ("none", "absorbed", "stored", "all")


@dataclass(frozen=True, kw_only=True)
class Factorization:
    """Replace matrices by sums of Kronecker products and low-rank parts.

    Raises:
        ValueError: an unknown choice, or parts that cannot be meant.

    Source: Edalati et al. 2022, KnGPT-2, arXiv:2110.08152; Abronin et al. 2024, TQCompressor,
    arXiv:2401.16367; Wang et al. 2025, SVD-LLM, arXiv:2403.07378. The sums of mixed shapes, their
    search and the fit to propagated inputs are this project's.
    """

    layers: Sequence[str] = ("blocks.*",)
    """Patterns over the names of `ModelConfig.matrix_sizes`."""
    budget: CompressionBudget | Mapping[str, Any] = field(
        default_factory=lambda: CompressionBudget(ratio=0.5)
    )
    """What may be kept."""
    parts: Sequence[PartTemplate | Mapping[str, Any]] | None = ()
    """Shapes written by hand; empty: low rank; None: searched for each matrix."""
    fit: str = "outputs"
    """`weights`: nearest in norm; `outputs`: nearest in the layer's outputs on the calibration
    text; `propagated`: outputs of the dense model from the inputs that compressed layers give."""
    allocation: str = "uniform"
    """`uniform`: the same share of each matrix; `searched`: more where the loss needs it."""
    permutations: str = "none"
    """`absorbed` by neighbouring layers (free), `stored` as indices, `all`, or `none`."""
    shape_search: ShapeSearch = field(default_factory=ShapeSearch)
    permutation_search: PermutationSearch = field(default_factory=PermutationSearch)

    def __post_init__(self) -> None:
        """Check the choices."""
        check_choice("fit", self.fit, FITS)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_choice("permutations", self.permutations, PERMUTATIONS)
        if not isinstance(self.budget, CompressionBudget):
            object.__setattr__(self, "budget", CompressionBudget(**self.budget))
        if self.parts is not None:
            parts = parse_parts(self.parts or ({},))
            object.__setattr__(self, "parts", parts)
        if self.permutations != "none" and self.is_low_rank:
            raise ValueError(
                f"permutations={self.permutations} change nothing for low rank; give parts with "
                "right factors, or permutations=none"
            )

    @property
    def is_low_rank(self) -> bool:
        """Whether every matrix becomes a product of two thin ones."""
        return self.parts is not None and all(part.right is None for part in self.parts)  # pyright: ignore

    def check(self, model: MobileLLM) -> None:
        """Refuse what cannot be applied to `model`, before any data is read.

        Raises:
            ValueError: a pattern that matches nothing, a budget that cannot be met, factors that
                do not divide a matrix, a plan larger than the dense weights.
        """
        names = select_layers(model.config, self.layers)
        budgets = self._uniform(model, names)
        if self.parts is not None:
            Plan(layers=tuple(
                LayerPlan(name=name, size=model.config.matrix_sizes[name],
                          shape=self._written(model, name, budgets[name]))
                for name in names
            ))  # fmt: skip

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> Plan:
        """Choose a shape for each matrix, from the calibration text where the choices ask for it.

        Raises:
            ValueError: as `check`; too few calibration tokens.
        """
        self.check(model)
        names = select_layers(model.config, self.layers)
        metrics = self._metrics(model, calibration, names)
        uniform = self._plan_shapes(model, self._uniform(model, names), metrics)
        if self.allocation == "uniform":
            return uniform
        searched = searched_budgets(
            model, calibration, metrics,
            allowed=self._budget.allowed(model.config, names),
            weights=self._budget.weights_of(model.config, names),
        )  # fmt: skip
        # The search measured low-rank stand-ins; what counts is what is going to be built.
        plans = [uniform, self._plan_shapes(model, searched, metrics)]
        return min(plans, key=lambda plan: self._loss(model, plan, calibration))

    def _loss(self, model: MobileLLM, plan: Plan, calibration: Sequence[Batch]) -> float:
        """Calibration loss of the model compressed by `plan`, nats per token."""
        return sum_losses(self.apply(model, plan, calibration).model, calibration).loss

    def _plan_shapes(
        self, model: MobileLLM, budgets: Mapping[str, int], metrics: Mapping[str, Metric]
    ) -> Plan:
        """A shape for each matrix within its parameters; what has room for all stays dense."""
        layers = []
        for name, parameters in told(budgets.items(), "shapes found"):
            rows, columns = size = model.config.matrix_sizes[name]
            if parameters >= rows * columns:
                continue
            weight, metric = dense_weight(model, name), metrics[name]
            if self.parts is None:
                fit = search_shape(weight, parameters, metric, self.shape_search)
                shape = fit.layer().shape
            else:
                shape = self._written(model, name, parameters)
                fit = SumFit(weight, shape, metric)
            shape = with_permutations(shape, self.permutations)
            layers.append(LayerPlan(name=name, size=size, shape=shape, expected_error=fit.error))
        return Plan(layers=tuple(layers))

    def apply(self, model: MobileLLM, plan: Plan, calibration: Sequence[Batch]) -> Compressed:
        """Fit the planned shapes, layer after layer in the model's order.

        Raises:
            ValueError: too few calibration tokens, a layer that is compressed already.
        """
        dense = model
        if self.permutations in ("absorbed", "all"):
            dense = absorb_permutations(model, plan, self.permutation_search)
        names = [name for name in model.config.matrix_sizes if name in plan.names]
        shapes: dict[str, LayerShape] = plan.compressed_layers
        fitted: dict[str, FactorizedLinear] = {}
        errors: dict[str, float] = {}
        working = working_copy(dense)
        prefix = Prefix(dense, calibration) if Prefix.serves(dense) else None
        for site in told(self._sites(names), "layers fitted, by their inputs"):
            moments: dict[str, Moments] = {}
            if self.fit == "outputs":
                moments = gather_moments(working, calibration, site)
            elif self.fit == "propagated":
                is_block = site[0] not in TABLES
                if prefix is not None and is_block:
                    prefix.move_to(int(site[0].split(".")[1]), working)
                run = prefix if is_block else None
                moments = gather_moments(working, calibration, site, teacher=dense, run=run)
            for name in site:
                layer, errors[name] = self._fit_layer(dense, name, shapes[name], moments)  # pyright: ignore
                fitted[name] = layer
                if self.fit == "propagated":
                    working = with_layers(working, {name: layer})
        return Compressed(with_layers(dense, fitted), errors)

    @property
    def _budget(self) -> CompressionBudget:
        return self.budget  # pyright: ignore[reportReturnType]

    def _uniform(self, model: MobileLLM, names: Sequence[str]) -> dict[str, int]:
        budget = self._budget
        return uniform_budgets(
            model.config, names, budget.allowed(model.config, names),
            budget.weights_of(model.config, names),
        )  # fmt: skip

    def _written(self, model: MobileLLM, name: str, parameters: int) -> FactorizedShape:
        size = model.config.matrix_sizes[name]
        return shape_from_parts(self.parts or (), size, parameters, name)  # pyright: ignore

    def _metrics(
        self, model: MobileLLM, calibration: Sequence[Batch], names: Sequence[str]
    ) -> dict[str, Metric]:
        if self.fit == "weights":
            return dict.fromkeys(names, Metric())
        moments = gather_moments(model, calibration, names)
        return {name: _metric(name, moments[name]) for name in names}

    def _fit_layer(
        self, dense: MobileLLM, name: str, shape: FactorizedShape, moments: Mapping[str, Moments]
    ) -> tuple[FactorizedLinear, float]:
        """The fitted layer of one matrix, and its relative error."""
        weight = dense_weight(dense, name)
        metric, cross = Metric(), None
        if name in moments:
            metric, cross = _metric(name, moments[name]), moments[name].cross
        goal = weight.double() if name in TABLES else target_weight(weight, metric, cross)
        if shape.row_permutation or shape.column_permutation:
            layer = permuted_fit(goal, shape, metric, self.permutation_search)
        else:
            layer = SumFit(goal, shape, metric).improve().layer(weight.dtype)
        return layer, metric.relative_error(goal, layer.materialize().detach())

    def _sites(self, names: Sequence[str]) -> list[list[str]]:
        """Names whose moments are measured together: those that share an input, or all."""
        if self.fit != "propagated":
            return [list(names)]
        sites: dict[str, list[str]] = {}
        for name in names:
            sites.setdefault(_input_of(name), []).append(name)
        return list(sites.values())


def _input_of(name: str) -> str:
    """What the matrix reads; matrices of one input have one answer."""
    parent, _, kind = name.rpartition(".")
    shared = {"q_proj": "x", "k_proj": "x", "v_proj": "x", "gate_proj": "x", "up_proj": "x"}
    return f"{parent}.{shared.get(kind, kind)}"


def _metric(name: str, moments: Moments) -> Metric:
    """The error of the outputs; for a token table, which is read from both ends, half of each.

    A look-up sees every entry of a row alike, the head sees the hidden states.
    """
    check_tokens(name, moments)
    if name not in TABLES:
        return Metric(moments.inputs)
    plain = torch.eye(len(moments.inputs)).to(moments.inputs)
    return Metric(moments.inputs / moments.inputs.diagonal().mean() + plain)
