"""Parametrisations: settings that are tuned for one shape and used for others.

A parametrisation names a base shape, at which all settings (learning rate, weight decay, initial
weights) mean what they say. For a wider or deeper model it multiplies them, parameter by parameter,
and gives the model its multipliers, so that the updates of all layers keep their size.

Sources: width (muP): Yang et al. 2022, Tensor Programs V, arXiv:2203.03466, table 8, the form for
tied embeddings. Depth (CompleteP): Dey et al. 2025, arXiv:2505.01618, table 1 and equation 40.
Muon: the condition on spectral norms of Yang, Simon and Bernstein 2023, arXiv:2310.17813, applied
to an update whose singular values are all 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from mobilellm.layers import DENSE
from mobilellm.models.config import MULTIPLIERS, ModelConfig
from mobilellm.models.initialization import InitialScale
from mobilellm.optim.base_shape import BaseShape, Size
from mobilellm.optim.scale import Scale, ScaleOf
from mobilellm.ranges import Range, check_value, checked

EXPONENT = Range(at_least=0.5, at_most=1, remedy="1 is CompleteP")

# For each algorithm, the rate at which an update changes the outputs of a matrix (out, in) by as
# much as its inputs are large, up to a constant factor.
RATES: dict[str, Callable[[Size], float]] = {
    # The entries of an update of Adam are ± the rate, and add up over the inputs.
    "adamw": lambda size: 1 / size[1],
    # All singular values of an update of Muon are the rate times 0.2 sqrt(max(out, in)).
    "match_rms_adamw": lambda size: math.sqrt(min(size)) / size[1],
    # The same with sqrt(max(1, out / in)).
    "original": lambda size: math.sqrt(min(1.0, size[0] / size[1])),
}


@dataclass(frozen=True, kw_only=True)
class Parametrization:
    """The rules for one base shape; `mup` and `completep` make one.

    Raises:
        ValueError: the exponent is out of range.
    """

    base: BaseShape
    """The shape for which the settings are meant."""
    depth_exponent: float = 1.0
    """alpha: the residual multiplier is (base_depth / num_layers) ** alpha."""

    def __post_init__(self) -> None:
        """Check the exponent."""
        check_value("depth_exponent", self.depth_exponent, float, EXPONENT)

    def configured(self, config: ModelConfig) -> ModelConfig:
        """The configuration with the multipliers that follow from its shape.

        Raises:
            ValueError: the model cannot be scaled from the base shape, or has other multipliers.
        """
        self.base.check(config)
        multipliers = {
            "residual_multiplier": self.base.depth_ratio(config) ** -self.depth_exponent,
            "attention_multiplier": self.base.head_ratio(config) ** -0.5,
            "output_multiplier": 1 / self.base.width_ratio(config),
        }
        for name in MULTIPLIERS:
            if (given := getattr(config, name)) not in (1, multipliers[name]):
                raise ValueError(
                    f"model.{name}={given:g} contradicts the parametrisation, which sets it to "
                    f"{multipliers[name]:g}; leave it out, or use parametrization=standard"
                )
        return replace(config, **multipliers)

    def describe(self, config: ModelConfig) -> str:
        """Return a line about the base shape and how much larger the model is.

        Args:
            config: of the model that is trained.
        """
        base, width = self.base, self.base.width_ratio(config)
        if base.base_depth is None:
            return f"settings are those of width {base.base_width}, scaled by {width:g} in width"
        return (
            f"settings are those of {base.base_depth} layers of width {base.base_width}, scaled by "
            f"{width:g} in width and {base.depth_ratio(config):g} in depth"
        )

    def initial_scale(self, config: ModelConfig) -> InitialScale:
        """The initial weights: those of the base shape, with the variance 1 / inputs in blocks."""
        sizes = config.matrix_sizes
        return InitialScale(
            width=self.base.base_width,
            depth=self.base.base_depth or config.num_layers,
            factors={
                name: (self.base.size_of(config, name)[1] / size[1]) ** 0.5
                for name, size in sizes.items()
                if name.startswith("blocks.")
            },
        )

    def scale_of(self, config: ModelConfig, muon: str | None = None) -> ScaleOf:
        """The factors of learning rate, weight decay and eps of each parameter.

        Args:
            config: of the model whose parameters are asked for.
            muon: `adjust_learning_rate` if Muon updates the matrices; None: AdamW does.
        """

        def scale(name: str, parameter: nn.Parameter) -> Scale:
            place = name.partition(".")[0]
            by_width = self._rate_by_width(config, name, parameter, muon)
            depth = self.base.depth_ratio(config) if place == "blocks" else 1.0
            eps = depth**-self.depth_exponent / self.base.width_ratio(config)
            factors = (
                by_width * depth ** (self.depth_exponent - 1),
                # Both optimizers multiply weight decay with the learning rate.
                1 / by_width,
                # Gradients fall like this: the logits with the width, the branches with the depth.
                1.0 if place == "auxiliary" else eps,
            )
            # Rounded, so that matrices of other proportions do not get a group of their own.
            return Scale(*(float(f"{factor:.12g}") for factor in factors))

        return scale

    def _rate_by_width(
        self, config: ModelConfig, name: str, parameter: nn.Parameter, muon: str | None
    ) -> float:
        """Factor of the learning rate that follows from widths."""
        place = name.partition(".")[0]
        if parameter.ndim < 2:
            return 1.0
        rate = RATES[muon if muon is not None and parameter.ndim == 2 else "adamw"]
        if place == "auxiliary":
            # A projection from hidden states of the model to a width that does not change.
            rows, columns = parameter.shape
            base = (rows, columns / self.base.width_ratio(config))
            return rate((rows, columns)) / rate(base)
        matrix, is_table = config.matrix_of(name), place != "blocks"
        shape = config.layer_shapes.get(matrix, DENSE)
        exponent = shape.rate_exponent(name.removeprefix(f"{matrix}."), is_table=is_table)
        if is_table:
            return self.base.width_ratio(config) ** -exponent
        size, base = config.matrix_sizes[matrix], self.base.size_of(config, matrix)
        return (rate(size) / rate(base)) ** exponent


def scale_of(
    model: nn.Module, parametrization: Parametrization | None, *, muon: str | None = None
) -> ScaleOf | None:
    """`Parametrization.scale_of` for a model with a `config`; None without a parametrisation.

    Raises:
        ValueError: the model has no `config`.
    """
    if parametrization is None:
        return None
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"parametrization needs the sizes of the model, and {type(model).__name__} has no "
            "config; give a MobileLLM, or parametrization=None"
        )
    return parametrization.scale_of(config, muon)


@checked()
def mup(
    *,
    base_width: int,
    base_intermediate_size: int | None = None,
    base_num_attention_heads: int | None = None,
    base_num_key_value_heads: int | None = None,
    base_head_dim: int | None = None,
) -> Parametrization:
    """muP: settings that hold at `base_width` hold at other widths; depth changes none.

    Args:
        base_width: hidden_size of the shape for which the settings are meant.
        base_intermediate_size: its feed-forward width; None: in proportion to the model's.
        base_num_attention_heads: its query heads; None: in proportion.
        base_num_key_value_heads: its key and value heads; None: as many per query head.
        base_head_dim: its head_dim, for attention scores that fall as 1 / head_dim; None: the
            model's, and the scores stay as they are.

    Raises:
        ValueError: a number is out of range, or the numbers of heads do not divide.
    """
    base = BaseShape(
        base_width=base_width,
        base_intermediate_size=base_intermediate_size,
        base_num_attention_heads=base_num_attention_heads,
        base_num_key_value_heads=base_num_key_value_heads,
        base_head_dim=base_head_dim,
    )
    return Parametrization(base=base)


@checked()
def completep(
    *,
    base_width: int,
    base_depth: int,
    depth_exponent: float = 1.0,
    base_intermediate_size: int | None = None,
    base_num_attention_heads: int | None = None,
    base_num_key_value_heads: int | None = None,
    base_head_dim: int | None = None,
) -> Parametrization:
    """CompleteP: muP, and settings that hold at `base_depth` hold at other depths.

    Args:
        base_width: as for `mup`, like those that are not listed here.
        base_depth: layers that the base shape runs; a block that runs twice counts twice.
        depth_exponent: alpha; 1, or down to 0.5 for the weaker rule of depth-muP.
        base_intermediate_size: as for `mup`.
        base_num_attention_heads: as for `mup`.
        base_num_key_value_heads: as for `mup`.
        base_head_dim: as for `mup`.

    Raises:
        ValueError: a number is out of range, or the numbers of heads do not divide.
    """
    base = BaseShape(
        base_width=base_width,
        base_depth=base_depth,
        base_intermediate_size=base_intermediate_size,
        base_num_attention_heads=base_num_attention_heads,
        base_num_key_value_heads=base_num_key_value_heads,
        base_head_dim=base_head_dim,
    )
    return Parametrization(base=base, depth_exponent=depth_exponent)
