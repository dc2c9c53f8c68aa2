"""Compression plans: plain data that describe the compressed model before it is created."""

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
    """The result of `Recipe.plan` for one model.

    A plan either compresses named matrices independently, so that it can be divided into stages, or
    changes the model as a whole. The default methods are for plans that change the whole model.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices that are compressed independently; empty if there are none."""
        return ()

    @property
    def expected_errors(self) -> dict[str, float | None]:
        """Expected relative error of each matrix in `names`; None if it was not estimated."""
        return {}

    def only(self, names: Iterable[str]) -> Self:
        """The part of the plan for the given matrices, in the given order.

        Raises:
            ValueError: the plan does not contain a name.
        """
        for name in names:
            raise ValueError(f"{name} is not in the plan, which changes the model as a whole")
        return self

    def layer_report(self, errors: Mapping[str, float]) -> dict[str, Any]:
        """Plain data for JSON about each matrix in `names` after compression.

        Args:
            errors: measured relative error of each matrix, by name.
        """
        return {}

    @abstractmethod
    def table(self) -> Table:
        """A table for the terminal, at most 80 columns wide."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is the inverse."""

    @classmethod
    @abstractmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The planned compression of one matrix."""

    name: str
    """Name of the matrix, a key of `ModelConfig.matrix_sizes`."""
    size: Size
    """Rows and columns (out, in)."""
    shape: LayerShape
    """Shape of the compressed matrix."""
    expected_error: float | None = None
    """Expected relative error under the metric of the recipe; None if it was not estimated."""

    @property
    def parameters(self) -> int:
        """Number of parameters after compression, including masked weights."""
        return self.shape.cost(self.size).parameters

    @property
    def nonzero(self) -> int:
        """Number of parameters after compression, without masked weights."""
        return self.shape.cost(self.size).nonzero

    @property
    def flops(self) -> int:
        """Floating-point operations per input vector after compression."""
        return self.shape.cost(self.size).flops


@dataclass(frozen=True, kw_only=True)
class LayerwisePlan(Plan):
    """A plan that compresses matrices independently, in the given order.

    Raises:
        ValueError: a matrix occurs twice, or has more parameters than the dense matrix.
    """

    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        """Check the layers."""
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the plan contains {name} twice; plan each layer once")
        for layer in self.layers:
            dense = layer.size[0] * layer.size[1]
            if layer.parameters > dense:
                raise ValueError(
                    f"the plan for {layer.name} has {layer.parameters:,} parameters, more than the "
                    f"dense weight's {dense:,}; use fewer terms or smaller factors"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices, in the order of compression."""
        return tuple(layer.name for layer in self.layers)

    @property
    def expected_errors(self) -> dict[str, float | None]:
        """Expected relative error of each matrix; None if it was not estimated."""
        return {layer.name: layer.expected_error for layer in self.layers}

    @property
    def compressed_layers(self) -> dict[str, LayerShape]:
        """The shapes by name, a value for `ModelConfig.compressed_layers`."""
        return {layer.name: layer.shape for layer in self.layers}

    def only(self, names: Iterable[str]) -> LayerwisePlan:
        """The part of the plan for the given matrices, in the given order.

        Raises:
            ValueError: the plan does not contain a name.
        """
        known = {layer.name: layer for layer in self.layers}
        names = list(names)
        for name in names:
            if name not in known:
                raise ValueError(f"{name} is not in the plan, which contains {', '.join(known)}")
        return replace(self, layers=tuple(known[name] for name in names))

    def layer_report(self, errors: Mapping[str, float]) -> dict[str, Any]:
        """Plain data for JSON about each matrix after compression."""
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
        """A table with totals, and one row per matrix, or per kind of matrix if there are many."""
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
    """`gate_proj 12` for `blocks.12.feed_forward.gate_proj`, or only `gate_proj` if grouped."""
    found = re.fullmatch(r"blocks\.(\d+)\..*\.(\w+)", name)
    if found is None:
        return name
    return found[2] if grouped else f"{found[2]} {found[1]}"


def _shares(layers: Sequence[LayerPlan]) -> list[str]:
    """Shares of kept weights and of kept operations, and the range of expected errors, as text."""
    dense = sum(layer.size[0] * layer.size[1] for layer in layers)
    kept, flops = sum(layer.nonzero for layer in layers), sum(layer.flops for layer in layers)
    errors = sorted(f"{e.expected_error:.3f}" for e in layers if e.expected_error is not None)
    ends = list(dict.fromkeys((errors[0], errors[-1]))) if errors else []
    return [f"{kept / dense:.1%}", f"{flops / (2 * dense):.1%}", "-".join(ends)]
