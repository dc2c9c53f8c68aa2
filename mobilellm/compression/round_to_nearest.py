"""Quantization by rounding each weight to the nearest value."""

from collections.abc import Sequence
from dataclasses import dataclass

from mobilellm.compression.apply import with_layers
from mobilellm.compression.plan import LayerwisePlan
from mobilellm.compression.quantization_recipe import (
    QuantizationRecipe,
    finite_weight,
    relative_errors,
)
from mobilellm.compression.recipe import Batch, Compressed
from mobilellm.layers.quantized import QuantizedLinear
from mobilellm.models import MobileLLM


@dataclass(frozen=True, kw_only=True)
class RoundToNearest(QuantizationRecipe):
    """Quantization without calibration. Errors are relative errors of the weights."""

    freezes_weights = True

    @property
    def measures_inputs(self) -> bool:
        """No: each weight is rounded alone."""
        return False

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Round the planned matrices.

        Raises:
            ValueError: another recipe made the plan, a matrix is compressed already, or weights are
                not finite.
        """
        self.check_plan(model.config, plan)
        layers = {
            name: QuantizedLinear.nearest(finite_weight(model, name), self.number_format(name))
            for name in plan.names
        }
        return Compressed(with_layers(model, layers), relative_errors(model, layers, {}))
