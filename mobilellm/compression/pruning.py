"""Pruning of individual weights by magnitude, Wanda or SparseGPT."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.pruning import (
    UNSTRUCTURED,
    check_pattern,
    magnitude_mask,
    pruned_count,
    sparsegpt,
    wanda_mask,
)
from mobilellm.compression.apply import dense_weight, frozen_view, with_layers
from mobilellm.compression.calibration import Moments, check_tokens, gather_moments
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch, Compressed, LayerwiseRecipe
from mobilellm.compression.residual_stream import PairedStreams
from mobilellm.compression.selection import block_of, by_depth, groups_by_input
from mobilellm.layers.masked import MaskedLinear, MaskedShape
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import check_choice
from mobilellm.ranges import Range, check_fields

METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True, kw_only=True)
class Pruning(LayerwiseRecipe):
    """Pruning of individual weights, which sets them to zero permanently.

    Errors are relative errors of the weights for `magnitude`, and of the layer's outputs on the
    calibration text for the other methods.

    Raises:
        ValueError: the method or pattern is unknown, or the sparsity is outside [0, 1) or
            contradicts the pattern.

    Source: Sun et al. 2023, Wanda, arXiv:2306.11695; Frantar and Alistarh 2023, SparseGPT,
    arXiv:2301.00774.
    """

    method: str = "sparsegpt"
    """Criterion of pruning. `magnitude`: smallest |w|; `wanda`: smallest product of |w| and the
    norm of the input; `sparsegpt`: smallest effect on the layer's outputs, with the remaining
    weights adjusted to compensate."""
    sparsity: float = 0.5
    """Share of each matrix's weights that become zero."""
    pattern: str = UNSTRUCTURED
    """`unstructured`, or n:m, which keeps n of every m consecutive inputs."""

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(self, sparsity=Range(at_least=0, below=1))
        check_choice("method", self.method, METHODS)
        check_pattern(self.sparsity, self.pattern)

    @property
    def measures_inputs(self) -> bool:
        """Whether the method is one that needs inputs."""
        return self.method != "magnitude"

    def check(self, model: MobileLLM) -> None:
        """Check that the recipe can be applied to `model`, before any data is read.

        Raises:
            ValueError: a pattern matches nothing or only matrices that are compressed already, the
                method needs inputs and the token embedding is selected, or the number of inputs
                of a matrix is not divisible by m.
        """
        self._check_layers(model.config, self.layer_names(model.config))

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> LayerwisePlan:
        """Compute the number of weights that each matrix keeps, and its expected error.

        The expected error is measured with only this matrix pruned.

        Raises:
            ValueError: as `check`, or there are too few calibration tokens.
        """
        self.check(model)
        sizes = model.config.matrix_sizes
        names = self.layer_names(model.config)
        streams, errors = PairedStreams(calibration, model), {}
        for stage in self._stages(model.config, names):
            moments = self._moments(model, stage, streams)
            errors |= {name: self._prune(model, name, moments)[1] for name in stage}
        return LayerwisePlan(
            layers=tuple(
                LayerPlan(
                    name=name,
                    size=sizes[name],
                    shape=self._shape(sizes[name]),
                    expected_error=errors[name],
                )
                for name in names
            )
        )

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Mask the planned matrices block by block, with inputs from the blocks already pruned.

        Raises:
            ValueError: another recipe made the plan, a layer is compressed already, or there are
                too few calibration tokens.
        """
        self._check_layers(model.config, plan.names)
        self._check_plan(plan)
        working = frozen_view(model)
        streams = PairedStreams(calibration, model)
        layers: dict[str, MaskedLinear] = {}
        errors: dict[str, float] = {}
        stages = self._stages(model.config, plan.names)
        for stage in log_progress(stages, "blocks pruned"):
            # The moments of one input at a time are in memory.
            for group in groups_by_input(model.config, stage):
                moments = self._moments(working, group, streams)
                for name in group:
                    layers[name], errors[name] = self._prune(model, name, moments)
            working = with_layers(working, {name: layers[name] for name in stage}, copy=False)
        return Compressed(with_layers(model, layers), errors)

    @staticmethod
    def _stages(config: ModelConfig, names: Sequence[str]) -> list[list[str]]:
        """The named matrices of each block or table, in the order of their first use."""
        return [list(stage) for _, stage in groupby(by_depth(config, names), key=block_of)]

    def _shape(self, size: tuple[int, int]) -> MaskedShape:
        entries = size[0] * size[1]
        return MaskedShape(nonzero=entries - pruned_count(entries, self.sparsity))

    def _moments(
        self, model: MobileLLM, names: Sequence[str], streams: PairedStreams
    ) -> dict[str, Moments]:
        """Moments of the named matrices, which have one input; none for `magnitude`."""
        if self.method == "magnitude":
            return {}
        run = streams.at(block_of(names[0]), model)
        moments = gather_moments(model, streams.calibration, names, run=run)
        for name in names:
            if self.method == "sparsegpt":  # Wanda needs only the diagonal.
                check_tokens(name, moments[name])
        return moments

    def _prune(
        self, model: MobileLLM, name: str, moments: dict[str, Moments]
    ) -> tuple[MaskedLinear, float]:
        """The masked layer of one matrix, and its relative error."""
        weight = dense_weight(model, name)
        pruned, mask = self._mask(weight, moments.get(name))
        layer = MaskedLinear(pruned, mask)
        metric = Metric(moments[name].inputs) if name in moments else Metric()
        return layer, metric.relative_error(weight, layer.materialize().detach())

    def _mask(self, weight: Tensor, moments: Moments | None) -> tuple[Tensor, Tensor]:
        """The weight (out, in), adjusted in the case of SparseGPT, and its mask."""
        if moments is None:
            return weight, magnitude_mask(weight, self.sparsity, self.pattern)
        if self.method == "wanda":
            norms = moments.inputs.diagonal().sqrt()
            return weight, wanda_mask(weight, norms, self.sparsity, self.pattern)
        return sparsegpt(weight, moments.inputs, self.sparsity, self.pattern)

    def _check_layers(self, config: ModelConfig, names: Sequence[str]) -> None:
        for name in names:
            if name not in config.matrix_sizes:
                check_choice("plan layer", name, config.matrix_sizes)
            if config.layer_shape(name) is not None:
                raise ValueError(
                    f"{name} is compressed already; prune the dense model, or do not select it"
                )
            if name == "embedding" and self.method != "magnitude":
                raise ValueError(
                    f"method={self.method} uses the inputs of a matrix, but the token embedding is "
                    "a look-up without inputs; use method=magnitude for embedding, or remove it "
                    "from layers"
                )
            try:
                check_pattern(self.sparsity, self.pattern, config.matrix_sizes[name][1])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def _check_plan(self, plan: LayerwisePlan) -> None:
        for layer in plan.layers:
            if layer.shape != (shape := self._shape(layer.size)):
                raise ValueError(
                    f"the plan for {layer.name} has {layer.shape}, but sparsity={self.sparsity} "
                    f"gives {shape}; apply the plan with the recipe that created it"
                )
