"""Linear layers that share the same units, so that these can be reordered or removed together.

The hidden units of a feed-forward layer are rows of the projections into it and columns of the
projection out of it; an attention head is `head_dim` rows of the query projection and as many
columns of the output projection. Reordering the units in all of these layers in the same way does
not change the model's output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Couplings are derived from a configuration without loading torch.
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """Units that are rows of some linear layers and columns of others.

    Unit u is the rows (or columns) u·unit … (u + 1)·unit − 1 and belongs to group
    u // (num_units / groups).

    Raises:
        ValueError: no layer is named, a size is below 1, or num_units is not divisible by groups.
    """

    name: str
    """Name for messages and plans, e.g. `blocks.0.hidden`."""
    rows: tuple[str, ...]
    """Names of the modules whose outputs are the units."""
    columns: tuple[str, ...]
    """Names of the modules whose inputs are the units."""
    num_units: int
    """Total number of units."""
    unit: int = 1
    """Number of rows (or columns) of one unit: `head_dim` for heads."""
    groups: int = 1
    """Number of groups; units may be exchanged only within their group. For query heads it is the
    number of key-value heads."""

    def __post_init__(self) -> None:
        """Check."""
        if not self.rows and not self.columns:
            raise ValueError(f"coupling {self.name} names no layer; give rows, columns or both")
        for field in ("num_units", "unit", "groups"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field}={value!r} must be a whole number of at least 1")
        if self.num_units % self.groups:
            raise ValueError(
                f"num_units={self.num_units} must be divisible by groups={self.groups}; "
                "give groups of equal size"
            )

    @property
    def features(self) -> int:
        """Number of rows (or columns) of all units together."""
        return self.num_units * self.unit

    @property
    def group_size(self) -> int:
        """Number of units in one group."""
        return self.num_units // self.groups


def coupled_layers(model: "nn.Module", coupling: Coupling) -> "Iterator[tuple[nn.Linear, int]]":
    """The layers of a coupling, each with the dimension of its weight that holds the units.

    Raises:
        ValueError: a module is missing, is not a plain `nn.Linear`, or has another size.
    """
    from torch import nn

    for names, dim in ((coupling.rows, 0), (coupling.columns, 1)):
        for name in names:
            try:
                module = model.get_submodule(name)
            except AttributeError:
                raise ValueError(
                    f"coupling {coupling.name}: the model has no module {name}; make the coupling "
                    "from this model's configuration"
                ) from None
            if type(module) is not nn.Linear:
                raise ValueError(
                    f"coupling {coupling.name}: {name} is {type(module).__name__}, not a dense "
                    "nn.Linear; reorder or remove units before compressing it, or fold it to a "
                    "dense layer"
                )
            if module.weight.shape[dim] != coupling.features:
                raise ValueError(
                    f"coupling {coupling.name}: {name} has {module.weight.shape[dim]} "
                    f"{('rows', 'columns')[dim]}, but num_units={coupling.num_units} x "
                    f"unit={coupling.unit} is {coupling.features}; make the coupling from this "
                    "model's configuration"
                )
            yield module, dim


def unit_features(units: "Tensor", unit: int) -> "Tensor":
    """Indices of the rows (or columns) of the given units, in their order: (n,) -> (n·unit,)."""
    import torch

    within = torch.arange(unit, device=units.device)
    return (units.unsqueeze(-1) * unit + within).flatten()


def permute_units_(model: "nn.Module", coupling: Coupling, order: "Tensor") -> None:
    """Reorder the units in place in every layer that shares them; the model's function is the same.

    Everything is checked before the first weight is changed. A module that is applied several
    times is permuted once.

    Args:
        model: contains the layers of `coupling` as plain `nn.Linear`.
        coupling: the layers and their units.
        order: (num_units,); the index of the unit that is moved to each position.

    Raises:
        ValueError: a layer is missing or not dense, or `order` is not a permutation of the units
            or moves a unit to another group.
    """
    import torch

    layers = list(coupled_layers(model, coupling))
    check_unit_order(order, coupling.num_units, coupling.groups)
    features = unit_features(order.long().cpu(), coupling.unit)
    with torch.no_grad():
        for module, dim in layers:
            index = features.to(module.weight.device)
            module.weight.copy_(module.weight.index_select(dim, index))
            if dim == 0 and module.bias is not None:
                module.bias.copy_(module.bias[index])


def check_unit_order(order: "Tensor", num_units: int, groups: int = 1) -> None:
    """Raise ValueError unless `order` permutes the units within their groups."""
    listed = order.tolist()
    if sorted(listed) != list(range(num_units)):
        raise ValueError(
            f"order of shape {tuple(order.shape)} must be a permutation of 0…{num_units - 1}"
        )
    size = num_units // groups
    for place, unit in enumerate(listed):
        if place // size != unit // size:
            raise ValueError(
                f"order moves unit {unit} of group {unit // size} to group {place // size}; "
                f"units may move only within their group of {size}"
            )
