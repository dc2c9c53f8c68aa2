"""How much of each matrix is kept: the same share everywhere, or more where the loss needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from mobilellm.accounting import count_parameters, decode_bytes_per_token, weight_bytes
from mobilellm.models import ModelConfig


@dataclass(frozen=True, kw_only=True)
class CompressionBudget:
    """What the compressed model may cost; exactly one limit is given.

    Raises:
        ValueError: none or several, or a share that is not between 0 and 1.
    """

    ratio: float | None = None
    """Share of the chosen matrices' own parameters that is kept."""
    stored_ratio: float | None = None
    """Share of all stored parameters of the model that is kept."""
    max_bytes: float | None = None
    """Bytes of the stored weights, at `bits` each."""
    max_decode_bytes: float | None = None
    """Bytes of weights read for one token at `bits` each, every use of a shared block counted."""
    bits: int = 16

    def __post_init__(self) -> None:
        """Check."""
        limits = [f.name for f in fields(self) if f.name != "bits"]
        given = [name for name in limits if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"the budget has {len(given)} limits ({', '.join(given) or 'none'}); give exactly "
                f"one of {', '.join(limits)}"
            )
        for name in ("ratio", "stored_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name}={value} must be above 0 and below 1, the share kept")

    def weights_of(self, config: ModelConfig, names: Sequence[str]) -> dict[str, float]:
        """What one parameter of each matrix costs: 1, or how often it is read for a token."""
        if self.max_decode_bytes is None:
            return dict.fromkeys(names, 1.0)
        order = config.layer_order
        return {
            name: float(order.count(int(name.split(".")[1]))) if name[:6] == "blocks" else 1.0
            for name in names
        }

    def allowed(self, config: ModelConfig, names: Sequence[str]) -> float:
        """What the named matrices may cost together, in parameters times their weights.

        Raises:
            ValueError: the rest of the model alone is over the limit, or nothing needs to be saved.
        """
        weights = self.weights_of(config, names)
        sizes = {name: rows * columns for name, (rows, columns) in config.matrix_sizes.items()}
        dense = sum(sizes[name] * weights[name] for name in names)
        if self.ratio is not None:
            return self.ratio * dense
        if self.stored_ratio is not None:
            stored = count_parameters(config).stored
            total, limit = float(stored), self.stored_ratio * stored
        elif self.max_bytes is not None:
            total, limit = float(weight_bytes(config, 8)), self.max_bytes * 8 / self.bits
        else:
            total = float(decode_bytes_per_token(config, bits=8))
            limit = float(self.max_decode_bytes or 0) * 8 / self.bits
        allowed = limit - (total - dense)
        if allowed <= 0:
            raise ValueError(
                f"the budget allows {limit:,.0f} parameters, but what is not compressed has "
                f"{total - dense:,.0f} already; name more layers or allow more"
            )
        if allowed >= dense:
            raise ValueError(
                f"the budget allows {limit:,.0f} parameters and the model has {total:,.0f}; "
                "ask for less"
            )
        return allowed


def uniform_budgets(
    config: ModelConfig, names: Sequence[str], allowed: float, weights: Mapping[str, float]
) -> dict[str, int]:
    """Parameters for each matrix: the same share of each."""
    sizes = {name: rows * columns for name, (rows, columns) in config.matrix_sizes.items()}
    share = allowed / sum(sizes[name] * weights[name] for name in names)
    return {name: int(share * sizes[name]) for name in names}
