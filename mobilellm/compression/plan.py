"""A plan says, before anything changes, what each compressed layer will be; plain data."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.layers.shapes import LayerShape, MaskedShape, Shape, parse_layer_shape


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One matrix: what it is and what it will be."""

    name: str
    """Its module's name, a key of `ModelConfig.matrix_sizes`."""
    size: Shape
    """Rows and columns (out, in)."""
    shape: LayerShape
    """How it will be stored."""
    expected_error: float | None = None
    """Relative error on the method's own metric, from the calibration set; None: not estimated."""

    @property
    def parameters(self) -> int:
        """Stored parameters afterwards: a masked weight keeps its place."""
        rows, columns = self.size
        return rows * columns if isinstance(self.shape, MaskedShape) else self.shape.parameters

    @property
    def stored(self) -> int:
        """Numbers kept: as `parameters`, of a masked matrix those that are not zero."""
        return self.shape.nonzero if isinstance(self.shape, MaskedShape) else self.shape.parameters

    @property
    def flops(self) -> int:
        """Operations for one input vector afterwards; masked weights are multiplied as well."""
        rows, columns = self.size
        return 2 * rows * columns if isinstance(self.shape, MaskedShape) else self.shape.flops


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be compressed, in the order it will be done.

    Raises:
        ValueError: a layer named twice, a factorised layer larger than the dense weight.
    """

    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        """Check."""
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the plan names {name} twice; name each layer once")
        for layer in self.layers:
            dense = layer.size[0] * layer.size[1]
            if layer.parameters > dense:
                raise ValueError(
                    f"the plan for {layer.name} has {layer.parameters:,} parameters, more than the "
                    f"dense weight's {dense:,}; use fewer terms or smaller factors"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def compressed_layers(self) -> dict[str, LayerShape]:
        """As `ModelConfig.compressed_layers` takes it."""
        return {layer.name: layer.shape for layer in self.layers}

    def only(self, names: Iterable[str]) -> "Plan":
        """The part of the plan for these layers, in the order given.

        Raises:
            ValueError: a name that the plan does not have.
        """
        known = {layer.name: layer for layer in self.layers}
        names = list(names)
        for name in names:
            if name not in known:
                raise ValueError(f"{name} is not in the plan; it has {', '.join(known)}")
        return replace(self, layers=tuple(known[name] for name in names))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is the inverse."""
        return {
            "layers": [
                asdict(layer) | {"size": list(layer.size), "shape": layer.shape.to_dict()}
                for layer in self.layers
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The inverse of `to_dict`."""
        return cls(
            layers=tuple(
                LayerPlan(
                    **layer
                    | {"size": tuple(layer["size"]), "shape": parse_layer_shape(layer["shape"])}
                )
                for layer in values["layers"]
            )
        )


def parse_plan(values: Mapping[str, Any]) -> Plan | StructuredPlan:
    """What `to_dict` of either kind of plan gave, back as a plan."""
    kind = Plan if "layers" in values else StructuredPlan
    return kind.from_dict(values)
