"""A plan says, before anything changes, what the compressed model will be. It is plain data."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from mobilellm.compression.tables import MAX_ROWS, Column, make_table
from mobilellm.layers import LayerShape, Size, parse_layer_shape, short_summary

if TYPE_CHECKING:
    from rich.table import Table


class Plan(ABC):
    """What a recipe is going to do to one model.

    A plan either compresses named matrices one by one, so that it can be divided into stages, or
    changes the model as a whole; the defaults are those of the second kind.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The matrices that are compressed one by one; empty: the model changes as a whole."""
        return ()

    @property
    def expected_errors(self) -> dict[str, float | None]:
        """Relative error that is expected of each matrix in `names`; None: not estimated."""
        return {}

    def only(self, names: Iterable[str]) -> Self:
        """The part of the plan for these matrices, in the order given.

        Raises:
            ValueError: a name that the plan does not have.
        """
        for name in names:
            raise ValueError(f"{name} is not in the plan, which changes the model as a whole")
        return self

    def layer_report(self, errors: Mapping[str, float]) -> dict[str, Any]:
        """Plain data for JSON: what became of each matrix in `names`.

        Args:
            errors: relative error of each matrix after compression, by name.
        """
        return {}

    @abstractmethod
    def table(self) -> Table:
        """The plan for people, in 80 columns."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is the inverse."""

    @classmethod
    @abstractmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One matrix: what it is and what it will be."""

    name: str
    """Its module's name, a key of `ModelConfig.matrix_sizes`."""
    size: Size
    """Rows and columns (out, in)."""
    shape: LayerShape
    """How it will be stored."""
    expected_error: float | None = None
    """Relative error on the method's own metric, from the calibration text; None: not estimated."""

    @property
    def parameters(self) -> int:
        """Stored parameters afterwards; masked weights are counted."""
        return self.shape.cost(self.size).parameters

    @property
    def nonzero(self) -> int:
        """Stored parameters afterwards that are not masked to zero."""
        return self.shape.cost(self.size).nonzero

    @property
    def flops(self) -> int:
        """Floating-point operations per input vector afterwards; masked weights are counted."""
        return self.shape.cost(self.size).flops


@dataclass(frozen=True, kw_only=True)
class LayerwisePlan(Plan):
    """The matrices that will be compressed one by one, in that order.

    Raises:
        ValueError: a matrix named twice, or one with more parameters than the dense matrix.
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
        """Of the matrices, in the order of compression."""
        return tuple(layer.name for layer in self.layers)

    @property
    def expected_errors(self) -> dict[str, float | None]:
        """Relative error that is expected of each matrix; None: not estimated."""
        return {layer.name: layer.expected_error for layer in self.layers}

    @property
    def compressed_layers(self) -> dict[str, LayerShape]:
        """As `ModelConfig.compressed_layers` takes it."""
        return {layer.name: layer.shape for layer in self.layers}

    def only(self, names: Iterable[str]) -> LayerwisePlan:
        """The part of the plan for these matrices, in the order given.

        Raises:
            ValueError: a name that the plan does not have.
        """
        known = {layer.name: layer for layer in self.layers}
        names = list(names)
        for name in names:
            if name not in known:
                raise ValueError(f"{name} is not in the plan; it has {', '.join(known)}")
        return replace(self, layers=tuple(known[name] for name in names))

    def layer_report(self, errors: Mapping[str, float]) -> dict[str, Any]:
        """What became of each matrix, as plain data for JSON."""
        return {
            layer.name: {
                "size": list(layer.size),
                "shape": str(layer.shape),
                "parameters_before": layer.size[0] * layer.size[1],
                "parameters_after": layer.parameters,
                "expected_error": layer.expected_error,
                "relative_error": errors.get(layer.name),
            }
            for layer in self.layers
        }

    def table(self) -> Table:
        """The totals, then one row per matrix, or per kind of matrix if there are many."""
        kinds: dict[str, list[LayerPlan]] = {}
        grouped = len(self.layers) > MAX_ROWS
        for layer in self.layers:
            kinds.setdefault(_row_name(layer.name, grouped), []).append(layer)
        dense = sum(layer.size[0] * layer.size[1] for layer in self.layers)
        kept = sum(layer.nonzero for layer in self.layers)
        table = make_table(
            f"plan: {len(self.layers)} matrices, {dense:,} weights, {kept:,} numbers kept",
            Column("matrix"), Column("size", "right"), Column("becomes", folds=True),
            *(Column(title, "right") for title in ("kept", "FLOPs", "error")),
        )  # fmt: skip
        if self.layers:
            table.add_row("all", "", "", *_shares(self.layers))
            table.add_section()
        for kind, layers in kinds.items():
            sizes = {f"{layer.size[0]}x{layer.size[1]}" for layer in layers}
            table.add_row(
                f"{len(layers)} {kind}" if len(layers) > 1 else kind,
                sizes.pop() if len(sizes) == 1 else "several",
                short_summary([layer.shape for layer in layers]),
                *_shares(layers),
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is the inverse."""
        return {
            "layers": [
                asdict(layer) | {"size": list(layer.size), "shape": layer.shape.to_dict()}
                for layer in self.layers
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerwisePlan:
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


def _row_name(name: str, grouped: bool) -> str:
    """`gate_proj 12` for blocks.12.feed_forward.gate_proj, or `gate_proj` for all of them."""
    found = re.fullmatch(r"blocks\.(\d+)\..*\.(\w+)", name)
    if found is None:
        return name
    return found[2] if grouped else f"{found[2]} {found[1]}"


def _shares(layers: Sequence[LayerPlan]) -> list[str]:
    """Kept weights, kept operations, and the range of expected errors."""
    dense = sum(layer.size[0] * layer.size[1] for layer in layers)
    kept, flops = sum(layer.nonzero for layer in layers), sum(layer.flops for layer in layers)
    errors = sorted(f"{e.expected_error:.3f}" for e in layers if e.expected_error is not None)
    ends = list(dict.fromkeys((errors[0], errors[-1]))) if errors else []
    return [f"{kept / dense:.1%}", f"{flops / (2 * dense):.1%}", "-".join(ends)]
