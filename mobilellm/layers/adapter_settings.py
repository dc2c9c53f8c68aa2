"""The settings of an adapter: a product of two narrow matrices that is added to a frozen one."""

from dataclasses import dataclass, fields
from typing import Any

from mobilellm.ranges import Range, check_fields

RANK = Range(at_least=1, cap=2**24)
ALPHA = Range(above=0, cap=1e9)
DROPOUT = Range(at_least=0, below=1, remedy="0 turns it off")


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """How the frozen weight W (out, in) of a matrix is changed: W + scale × B A.

    A is (rank, in), B is (out, rank).

    Raises:
        ValueError: a value is out of range.

    Sources: LoRA: Hu et al. 2021, arXiv:2106.09685. rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.
    DoRA: Liu et al. 2024, arXiv:2402.09353.
    """

    rank: int
    """Number of rows of A and of columns of B."""
    alpha: float
    """Numerator of the scale."""
    dropout: float = 0.0
    """Share of the inputs of A that is set to zero in training."""
    rslora: bool = False
    """Whether the scale is alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool = False
    """Whether the rows of the sum are rescaled to lengths that are trained as well (DoRA)."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self, rank=RANK, alpha=ALPHA, dropout=DROPOUT)

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their default, as plain data for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    def __str__(self) -> str:
        """A form such as `LoRA of rank 8, alpha 16`."""
        name = "DoRA" if self.dora else "LoRA"
        parts = [f"{name} of rank {self.rank}", f"alpha {self.alpha:g}"]
        parts += ["rank-stabilised"] if self.rslora else []
        parts += [f"dropout {self.dropout:g}"] if self.dropout else []
        return ", ".join(parts)
