"""Quantization-aware training."""

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
from mobilellm.layers import LayerShape
from mobilellm.layers.fake_quantized import (
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    FakeQuantizedShape,
)
from mobilellm.models import MobileLLM


@dataclass(frozen=True, kw_only=True)
class QuantizationAwareTraining(QuantizationRecipe):
    """Training of float weights that are rounded whenever they are applied.

    The gradient passes to the float weights as if they were not rounded. At the end of training,
    the rounded weights are packed. Errors are relative errors of the weights.

    Source: Jacob et al. 2018, arXiv:1712.05877; the formats are those of MobileLLM-Pro,
    arXiv:2511.06719.
    """

    needs_training = True

    activation_bits: int | None = 8

    def shape(self, name: str) -> LayerShape:
        """The shape of a matrix during training."""
        return FakeQuantizedShape(fake_quantized=self.number_format(name))

    def apply(
        self, model: MobileLLM, plan: LayerwisePlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Replace the planned matrices by such that are rounded when they are applied.

        Raises:
            ValueError: another recipe made the plan, a matrix is compressed already, or weights are
                not finite.
        """
        self.check_plan(model.config, plan)
        layers = {}
        for name in plan.names:
            kind = FakeQuantizedEmbedding if name == "embedding" else FakeQuantizedLinear
            layers[name] = kind(finite_weight(model, name).clone(), self.number_format(name))
        return Compressed(with_layers(model, layers), relative_errors(model, layers, {}))

    def finish(self, model: MobileLLM) -> MobileLLM:
        """The model with packed weights, which computes the same."""
        found = {name: model.get_submodule(name) for name in model.config.layer_shapes}
        return with_layers(
            model,
            {
                n: one.quantized()
                for n, one in found.items()
                if isinstance(one, FakeQuantizedLinear)
            },
        )
