"""Quantization with scaled inputs: AWQ."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from mobilellm.compression.algorithms.activation_scales import search_scales
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.apply import with_layers, working_copy
from mobilellm.compression.calibration import Moments, check_tokens, gather_moments
from mobilellm.compression.input_scales import ScaledInput, fold_scales_, scaled_inputs
from mobilellm.compression.plan import LayerwisePlan
from mobilellm.compression.progress import log_progress
from mobilellm.compression.quantization_recipe import (
    QuantizationRecipe,
    finite_weight,
    relative_errors,
)
from mobilellm.compression.recipe import Batch, Compressed
from mobilellm.compression.residual_stream import PairedStreams
from mobilellm.compression.selection import block_of, by_depth
from mobilellm.layers.quantization_grid import nearest_values
from mobilellm.layers.quantized import QuantizedLinear, in_float32
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.ranges import Range, check_fields


@dataclass(frozen=True, kw_only=True)
class AWQ(QuantizationRecipe):
    """Rounding to the nearest values after the inputs of matrices were scaled.

    The scales are folded into the norm or the matrix that makes an input, so that the model runs no
    further operations. The token embedding is rounded without scales. Errors are relative errors of
    the outputs; of the embedding, of the weights.

    Raises:
        ValueError: a value is not supported, or values contradict each other.

    Source: Lin et al. 2024, AWQ, arXiv:2306.00978.
    """

    freezes_weights = True

    num_exponents: int = 20
    """Number of exponents from 0 to 1 that are tried for the scales of each input."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self, num_exponents=Range(at_least=2, cap=1000))
        super().__post_init__()

    def check_layers(self, config: ModelConfig, names: Sequence[str]) -> None:
        """Check that the named matrices can be quantized.

        Raises:
            ValueError: as for other methods, or a matrix whose weights the scales change is
                compressed already.
        """
        super().check_layers(config, names)
        for one in self._inputs(config, names):
            for name in one.matrices:
                if (shape := config.layer_shape(name)) is not None:
                    raise ValueError(
                        f"the scales of the input of {one.readers[0]} also change {name}, which is "
                        f"compressed already ({shape}); quantize the model with floats that it was "
                        "made from, or use compression=gptq"
                    )

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Choose scales, fold them in, and round the planned matrices.

        Raises:
            ValueError: another recipe made the plan, a matrix is compressed already, weights are
                not finite, or there are too few calibration tokens.
        """
        self.check_plan(model.config, plan)
        scaled, streams = working_copy(model), PairedStreams(calibration, model)
        layers: dict[str, QuantizedLinear] = {}
        errors: dict[str, float] = {}
        # One second moment at a time is in memory, since all of them together take more than the
        # model itself.
        for one in log_progress(self._ordered(model.config, plan.names), "scales of inputs found"):
            read = [name for name in one.readers if name in plan.names]
            run = streams.at(block_of(one.readers[0]), model)
            moments = gather_moments(model, calibration, one.readers[:1], run=run)[one.readers[0]]
            found = self._scales(model, one, read, moments)
            fold_scales_(scaled, one, one.mean_over_repeats(found))
            own = {name: self._nearest(scaled, name) for name in read}
            metric = Metric(moments.inputs / torch.outer(found, found))
            errors |= relative_errors(scaled, own, dict.fromkeys(read, metric))
            layers |= own
        rest = {name: self._nearest(scaled, name) for name in plan.names if name not in layers}
        errors |= relative_errors(scaled, rest, {})
        layers = {name: (layers | rest)[name] for name in plan.names}
        compressed = with_layers(scaled, layers).train(model.training)
        return Compressed(compressed, {name: errors[name] for name in plan.names})

    def _nearest(self, model: MobileLLM, name: str) -> QuantizedLinear:
        return QuantizedLinear.nearest(finite_weight(model, name), self.number_format(name))

    def _ordered(self, config: ModelConfig, names: Sequence[str]) -> list[ScaledInput]:
        """The inputs by the depth of their readers; in a layer, from the last to the first.

        The scales of an input also change the rows of the matrix that makes it, which is a reader
        of an earlier input. These rows are therefore final when that matrix is rounded.
        """
        by_layer = {one.readers[0]: one for one in self._inputs(config, names)}
        layers = groupby(by_depth(config, by_layer), key=lambda name: name.rpartition(".")[0])
        return [by_layer[name] for _, inputs in layers for name in reversed([*inputs])]

    @staticmethod
    def _inputs(config: ModelConfig, names: Sequence[str]) -> list[ScaledInput]:
        """The inputs that can be scaled and that any of the named matrices reads."""
        return [one for one in scaled_inputs(config) if {*one.readers} & {*names}]

    def _scales(
        self, model: MobileLLM, one: ScaledInput, names: Sequence[str], moments: Moments
    ) -> Tensor:
        """Scales (in,) of an input, for the named matrices that read it."""
        check_tokens(names[0], moments)
        squares = one.mean_over_repeats(moments.inputs.diagonal())
        return search_scales(
            [in_float32(finite_weight(model, name)) for name in names],
            [partial(nearest_values, number_format=self.number_format(name)) for name in names],
            Metric(moments.inputs),
            one.repeat(squares.sqrt()),
            num_exponents=self.num_exponents,
        )
