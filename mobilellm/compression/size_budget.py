"""Limits on the size of a compressed model, and uniform division among its matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilellm.accounting import applications, count_parameters, decode_bytes_per_token, weight_bits
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import ModelConfig
from mobilellm.ranges import Range, check_fields

# A stored permutation is one 32-bit index for each row or column.
INDEX_BITS = 32
LIMITS = ("ratio", "stored_ratio", "max_bytes", "max_decode_bytes")


@dataclass(frozen=True, kw_only=True)
class SizeBudget:
    """Limit on the size of a compressed model. Exactly one limit must be given.

    Raises:
        ValueError: no limit or several limits are given, or a number is out of range.
    """

    ratio: float | None = None
    """Share of the parameters of the selected matrices that is kept."""
    stored_ratio: float | None = None
    """Share of all stored parameters of the model that is kept."""
    max_bytes: float | None = None
    """Bytes of all stored weights with `bits` bits per weight of the matrices
    (`accounting.weight_bits`), and of permutations, 4 bytes per index."""
    max_decode_bytes: float | None = None
    """Bytes read to decode one token, counted in the same way; a shared block is counted once per
    application."""
    bits: int = 16
    """Bits per weight of the matrices, for limits in bytes."""

    def __post_init__(self) -> None:
        """Check the limits."""
        share = Range(above=0, below=1, remedy="the share kept")
        size = Range(above=0, cap=1e18, remedy="the number of bytes")
        check_fields(self, ratio=share, stored_ratio=share, max_bytes=size, max_decode_bytes=size,
                     bits=Range(at_least=1, cap=64))  # fmt: skip
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"the budget has {len(given)} limits ({', '.join(given) or 'none'}); give exactly "
                f"one of {', '.join(LIMITS)}"
            )

    def __str__(self) -> str:
        """The limit, e.g. `ratio=0.5` or `max_bytes=1,000,000 at 16 bits`."""
        name = next(name for name in LIMITS if getattr(self, name) is not None)
        value = getattr(self, name)
        return f"{name}={value:,.0f} at {self.bits} bits" if self._in_bytes else f"{name}={value}"

    @property
    def _in_bytes(self) -> bool:
        return self.max_bytes is not None or self.max_decode_bytes is not None

    def index_cost(self, indices: int) -> float:
        """Cost of the entries of permutations, in parameters; 0 if the limit is a ratio."""
        return indices * INDEX_BITS / self.bits if self._in_bytes else 0.0

    def cost(self, shape: FactorizedShape) -> float:
        """Cost of one application of a matrix with the given shape, in parameters."""
        return shape.parameters + self.index_cost(shape.indices)

    def parameter_costs(self, config: ModelConfig, names: Sequence[str]) -> dict[str, float]:
        """Cost of one parameter of each matrix: 1, or the number of reads per decoded token."""
        if self.max_decode_bytes is None:
            return dict.fromkeys(names, 1.0)
        uses = applications(config)
        return {name: float(uses[name]) if name[:6] == "blocks" else 1.0 for name in names}

    def allowed(self, config: ModelConfig, names: Sequence[str]) -> float:
        """Largest total cost of the named matrices.

        Raises:
            ValueError: the other matrices alone exceed the limit, the dense model is within the
                limit, or an untied token embedding is to be compressed for `max_decode_bytes`,
                although decoding reads only one of its rows.
        """
        if self.max_decode_bytes is not None and not config.tie_word_embeddings:
            _check_no_embedding(names)
        costs = self.parameter_costs(config, names)
        sizes = {name: rows * columns for name, (rows, columns) in config.matrix_sizes.items()}
        dense = sum(sizes[name] * costs[name] for name in names)
        if self.ratio is not None:
            return self.ratio * dense
        if self.stored_ratio is not None:
            stored = count_parameters(config).stored
            total, limit = float(stored), self.stored_ratio * stored
        elif self.max_bytes is not None:
            total, limit = (
                weight_bits(config, self.bits) / self.bits,
                self.max_bytes * 8 / self.bits,
            )
        else:
            total = decode_bytes_per_token(config, bits=self.bits) * 8 / self.bits
            limit = float(self.max_decode_bytes or 0) * 8 / self.bits
        allowed = limit - (total - dense)
        if allowed <= 0:
            raise ValueError(
                f"{self} allows {limit:,.0f} parameters, but the layers that are not compressed "
                f"have {total - dense:,.0f}; compress more layers or raise the budget"
            )
        if allowed >= dense:
            raise ValueError(
                f"{self} allows {limit:,.0f} parameters and the model has {total:,.0f}; "
                "lower the budget below the model's size"
            )
        return allowed


def _check_no_embedding(names: Sequence[str]) -> None:
    if "embedding" in names:
        raise ValueError(
            "max_decode_bytes counts the bytes read per token, which include only one row of an "
            "untied token embedding, so that compressing it has no effect; remove embedding from "
            "layers, or use max_bytes or a ratio"
        )


def uniform_budgets(
    config: ModelConfig, names: Sequence[str], allowed: float, parameter_costs: Mapping[str, float]
) -> dict[str, int]:
    """Number of parameters of each matrix if all keep the same share of their entries."""
    sizes = {name: rows * columns for name, (rows, columns) in config.matrix_sizes.items()}
    share = allowed / sum(sizes[name] * parameter_costs[name] for name in names)
    return {name: int(share * sizes[name]) for name in names}
