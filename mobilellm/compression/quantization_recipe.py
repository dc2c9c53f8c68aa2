"""What the methods of quantization have in common: which matrix gets which number format."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.apply import dense_weight
from mobilellm.compression.calibration import TABLES
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.recipe import Batch, LayerwiseRecipe
from mobilellm.compression.selection import select_layers
from mobilellm.layers import LayerShape, materialize
from mobilellm.layers.number_format import GROUPS, NumberFormat
from mobilellm.layers.quantized import QuantizedLinear, QuantizedShape
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import check_choice
from mobilellm.ranges import check_fields


@dataclass(frozen=True, kw_only=True)
class QuantizationRecipe(LayerwiseRecipe):
    """A method that rounds matrices to number formats of few bits.

    The patterns in `layers` select matrices of the blocks. The token embedding and an untied output
    head have a setting of their own. A tied table is stored once and serves both ends.

    Raises:
        ValueError: a value is not supported, or values contradict each other.
    """

    bits: int = 4
    """Bits per weight of the selected matrices: 4 or 8."""
    group: int | None = 32
    """Number of consecutive inputs that share a scale, e.g. 32, 64 or 128; None: one scale per
    output."""
    symmetric: bool = True
    """Whether the values of a group lie around zero; otherwise each group has a zero point."""
    levels: str = "uniform"
    """`uniform`: equidistant values; `normal`: NF4, with bits=4 and group=64."""
    activation_bits: int | None = None
    """8: the inputs are rounded to 8 bits too, with one scale per token; None: they are not."""
    embedding_bits: int | None = 8
    """Bits per weight of the embedding and of an untied head. 8: one scale per row; 4: as the other
    matrices; None: they are not quantized."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self)
        if self.embedding_bits not in (None, 4, 8):
            raise ValueError(
                f"embedding_bits={self.embedding_bits} is not supported; use 4, 8, or null to "
                "leave the embedding in floats"
            )
        if self.embedding_bits == 4 and self.bits == 8:
            raise ValueError(
                "embedding_bits=4 takes group and levels from bits=4, but bits=8 is given; use "
                "embedding_bits=8, or quantize the embedding in a second step with layers=[]"
            )
        self.number_format("blocks")

    def number_format(self, name: str) -> NumberFormat:
        """The number format of a matrix that the recipe quantizes."""
        per_row = name in TABLES and self.embedding_bits == 8
        return NumberFormat(
            bits=8 if per_row else self.bits,
            group=None if per_row else self.group,
            symmetric=self.symmetric,
            levels="uniform" if per_row else self.levels,
            activation_bits=self.activation_bits,
        )

    def shape(self, name: str) -> LayerShape:
        """The shape of a matrix after compression."""
        return QuantizedShape(quantized=self.number_format(name))

    def quantized_config(self, config: ModelConfig) -> ModelConfig:
        """The configuration of a model after this recipe, with packed matrices.

        Raises:
            ValueError: as `check`.
        """
        names = self.layer_names(config)
        self.check_layers(config, names)
        packed = {name: QuantizedShape(quantized=self.number_format(name)) for name in names}
        return replace(config, compressed_layers={**config.layer_shapes, **packed})  # pyright: ignore[reportArgumentType]

    def layer_names(self, config: ModelConfig) -> tuple[str, ...]:
        """Names of the matrices that match `layers`, and of the tables that are quantized.

        Raises:
            ValueError: a pattern matches no matrix of floats, or the tables.
        """
        tables = [name for name in TABLES if name in config.matrix_sizes]
        if self.embedding_bits is None:
            tables = []
        names = select_layers(config, self.layers) if self.layers or not tables else ()
        for name in {*names} & {*TABLES}:
            raise ValueError(
                f"layers={list(self.layers)} selects {name}, whose number format is set by "
                "embedding_bits; select matrices of the blocks, e.g. layers=[blocks.*]"
            )
        self._check_floats(config, tables)
        return tuple(name for name in config.matrix_sizes if name in {*names, *tables})

    def check(self, model: MobileLLM) -> None:
        """Check that the recipe can be applied to `model`, before any data is read.

        Raises:
            ValueError: a pattern matches nothing or only matrices that are compressed already, or
                groups do not divide the inputs of a matrix.
        """
        self.check_layers(model.config, self.layer_names(model.config))

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> LayerwisePlan:
        """List the matrices and their number formats.

        The expected error is that of the weights if each is rounded to the nearest value.

        Raises:
            ValueError: as `check`, or weights are not finite.
        """
        self.check(model)
        sizes = model.config.matrix_sizes
        layers = []
        for name in self.layer_names(model.config):
            weight = finite_weight(model, name)
            rounded = QuantizedLinear.nearest(weight, self.number_format(name)).materialize()
            error = Metric().relative_error(weight, rounded)
            layers.append(
                LayerPlan(name=name, size=sizes[name], shape=self.shape(name), expected_error=error)
            )
        return LayerwisePlan(layers=tuple(layers))

    def check_layers(self, config: ModelConfig, names: Sequence[str]) -> None:
        """Check that the named matrices can be quantized.

        Raises:
            ValueError: a name is unknown, a matrix is compressed already, or groups do not divide
                the inputs of a matrix; the message names the groups that do.
        """
        for name in names:
            if name not in config.matrix_sizes:
                check_choice("plan layer", name, config.matrix_sizes)
        self._check_floats(config, names)
        inputs = {
            name: config.matrix_sizes[name][1]
            for name in names
            if self.number_format(name).group is not None
        }
        undivided = {n: width for n, width in inputs.items() if width % self.number_format(n).group}  # pyright: ignore
        if undivided:
            name, width = next(iter(undivided.items()))
            suits = [str(g) for g in GROUPS if not any(w % g for w in inputs.values())]
            number = f"and those of {len(undivided) - 1} more" if len(undivided) > 1 else ""
            raise ValueError(
                f"group={self.group} does not divide the {width} inputs of {name} {number}".rstrip()
                + f"; use group={', '.join(suits)} or null, which suit all selected matrices"
            )
        for name in names:
            try:
                self.number_format(name).check(config.matrix_sizes[name])
            except ValueError as error:
                raise ValueError(f"{name} {error}") from error

    def check_plan(self, config: ModelConfig, plan: LayerwisePlan) -> None:
        """Check that a plan is one of this recipe for a model with this configuration.

        Raises:
            ValueError: as `check_layers`, or the plan has another number format.
        """
        self.check_layers(config, plan.names)
        for layer in plan.layers:
            if layer.shape != (shape := self.shape(layer.name)):
                raise ValueError(
                    f"the plan for {layer.name} has {layer.shape}, but the recipe has {shape}; "
                    "apply the plan with the recipe that created it"
                )

    @staticmethod
    def _check_floats(config: ModelConfig, names: Iterable[str]) -> None:
        for name in names:
            if (shape := config.layer_shape(name)) is not None:
                remedy = "embedding_bits=null" if name in TABLES else "other layers"
                raise ValueError(
                    f"{name} is compressed already ({shape}); quantize the model with floats that "
                    f"it was made from, or use {remedy}"
                )


def finite_weight(model: MobileLLM, name: str) -> Tensor:
    """The dense weight (out, in) of the named matrix.

    Raises:
        ValueError: it has entries that are not finite.
    """
    weight = dense_weight(model, name)
    if not weight.isfinite().all():
        raise ValueError(
            f"{name} has weights that are not finite (NaN or overflow); compress a model whose "
            "loss is finite"
        )
    return weight


def relative_errors(
    model: MobileLLM, layers: Mapping[str, nn.Module], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Relative error of each quantized matrix; without a metric, that of the weights."""
    return {
        name: metrics.get(name, Metric()).relative_error(
            dense_weight(model, name), materialize(layer).detach()
        )
        for name, layer in layers.items()
    }
