"""Quantization by GPTQ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellm.compression.algorithms.gptq import gptq
from mobilellm.compression.algorithms.metric import Metric, target_weight
from mobilellm.compression.apply import with_layers, working_copy
from mobilellm.compression.calibration import (
    Moments,
    check_tokens,
    gather_moments,
    tied_table_moment,
)
from mobilellm.compression.plan import LayerwisePlan
from mobilellm.compression.progress import log_progress
from mobilellm.compression.quantization_recipe import QuantizationRecipe, finite_weight
from mobilellm.compression.recipe import Batch, Compressed
from mobilellm.compression.residual_stream import PairedStreams
from mobilellm.compression.selection import block_of, groups_by_input
from mobilellm.layers.quantized import QuantizedLinear
from mobilellm.models import MobileLLM
from mobilellm.models.config import check_choice
from mobilellm.ranges import Range, check_fields

FITS = ("outputs", "propagated")


@dataclass(frozen=True, kw_only=True)
class GPTQ(QuantizationRecipe):
    """Rounding column by column, with errors compensated by the columns that follow.

    The inputs of a matrix are those that the matrices quantized before it deliver. An untied token
    embedding, which is only looked up, is rounded to the nearest values. Errors are relative errors
    of the outputs for these inputs.

    Raises:
        ValueError: a value is not supported, or values contradict each other.

    Source: Frantar et al. 2023, GPTQ, arXiv:2210.17323.
    """

    freezes_weights = True

    fit: str = "outputs"
    """`outputs`: each matrix approximates its own outputs, for the inputs that it gets, as in GPTQ;
    `propagated`: it approximates, for these inputs, the outputs of the matrix in the model of
    floats, and so corrects a part of the errors of the matrices before it."""
    activation_order: bool = True
    """Whether columns are rounded in the order of falling mean squares of their inputs. The groups
    stay those of the stored order, so that this costs nothing at inference."""
    damping: float = 0.01
    """Share of the mean squared input that is added to each mean square."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self, damping=Range(above=0, cap=1e3, remedy="0.01 is usual"))
        check_choice("fit", self.fit, FITS)
        super().__post_init__()

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Quantize the planned matrices from the first to the last, in groups with one input.

        Raises:
            ValueError: another recipe made the plan, a matrix is compressed already, weights are
                not finite, or there are too few calibration tokens.
        """
        self.check_plan(model.config, plan)
        working = working_copy(model)
        streams = PairedStreams(calibration, model)
        layers: dict[str, QuantizedLinear] = {}
        errors: dict[str, float] = {}
        groups = groups_by_input(model.config, plan.names)
        for group in log_progress(groups, "groups of matrices quantized"):
            is_read = group[0] != "embedding"
            teacher = model if self.fit == "propagated" and is_read else None
            run = streams.at(block_of(group[0]), working, teacher)
            moments = gather_moments(working, calibration, group, teacher=teacher, run=run)
            done = {}
            for name in group:
                done[name], errors[name] = self._quantize(model, name, moments)
            layers |= done
            working = with_layers(working, done)
        return Compressed(with_layers(model, layers), errors)

    def _quantize(
        self, model: MobileLLM, name: str, moments: Mapping[str, Moments]
    ) -> tuple[QuantizedLinear, float]:
        """The quantized layer of one matrix, and its relative error."""
        weight, number_format = finite_weight(model, name), self.number_format(name)
        if name == "embedding" and not model.config.tie_word_embeddings:
            layer = QuantizedLinear.nearest(weight, number_format)
            return layer, Metric().relative_error(weight, layer.materialize())
        check_tokens(name, moments[name])
        if name == "embedding":
            metric = Metric(tied_table_moment(moments[name]))
        else:
            metric = Metric(moments[name].inputs)
        codes, grid = gptq(
            target_weight(weight, metric, moments[name].cross),
            metric.moment,  # pyright: ignore[reportArgumentType]
            number_format,
            activation_order=self.activation_order,
            damping=self.damping,
        )
        layer = QuantizedLinear.of_codes(codes, grid)
        return layer, metric.relative_error(weight, layer.materialize())
