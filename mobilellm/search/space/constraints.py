"""Hard limits of a search, which are checked from the shape alone, without training."""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.accounting import (
    count_parameters,
    flops_per_token,
    joules_per_token,
    kv_cache_bytes_per_token,
    weight_bits,
)
from mobilellm.models import ModelConfig
from mobilellm.ranges import Range, check_fields
from mobilellm.search.matching import BITS, COUNT, Matching

if TYPE_CHECKING:
    from mobilellm.search.latency import LatencyModel

AMOUNT = Range(above=0, cap=1e18, remedy="null sets no limit")
LATENCY = "latency_ms"


class NotCovered(ValueError):
    """Raised if a shape is outside of the range of the device profile."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The largest costs that a model may have, and what the costs depend on; None: no limit.

    Raises:
        ValueError: a number is out of range, a latency is limited without a profile, or the profile
            is of another device.
        FileNotFoundError: there is no such profile.
    """

    max_stored: float | None = None
    """Stored parameters."""
    max_body: float | None = None
    """Parameters without the embedding."""
    max_bytes: float | None = None
    """Bytes of the stored weights at `bits`."""
    max_flops: float | None = None
    """Forward FLOPs per token, in sequences of `sequence_length` tokens."""
    max_memory: float | None = None
    """Bytes of the weights at `bits` and of the KV cache of `context` tokens at 16 bits."""
    max_energy: float | None = None
    """Joules per token, by the rule of `accounting.joules_per_token`."""
    max_latency_ms: float | None = None
    """Milliseconds per decoded token, predicted from `latency_profile`."""
    bits: int = 16
    """Bits per weight of the matrices that are not quantized; see `accounting.weight_bits`."""
    embedding_bits: int | None = None
    """Bits per weight of the embedding; None: as `bits`."""
    context: int = 0
    """Tokens in the KV cache, for `max_memory`."""
    sequence_length: int = 1
    """Tokens per sequence, for `max_flops`."""
    latency_profile: str | None = None
    """File of the device profile; `mobilellm device-profile` measures it."""
    latency_device: str | None = None
    """Device of that profile, if it is not this machine."""

    def __post_init__(self) -> None:
        """Check the limits, and read the profile."""
        check_fields(
            self, max_stored=AMOUNT, max_body=AMOUNT, max_bytes=AMOUNT, max_flops=AMOUNT,
            max_memory=AMOUNT, max_energy=AMOUNT, max_latency_ms=AMOUNT, bits=BITS,
            embedding_bits=BITS, context=Range(at_least=0, cap=2**24), sequence_length=COUNT,
        )  # fmt: skip
        if self.max_latency_ms is not None and self.latency_profile is None:
            raise ValueError(
                f"max_latency_ms={self.max_latency_ms:g} requires a device profile; measure it "
                "once with `mobilellm device-profile --out FILE`, and give latency_profile=FILE"
            )
        if self.latency_device is not None and self.latency_profile is None:
            raise ValueError(
                f"latency_device={self.latency_device} has no effect without latency_profile; give "
                "latency_profile=FILE, or leave it out"
            )
        if self.latency_profile is not None:
            _ = self.latency

    @functools.cached_property
    def latency(self) -> "LatencyModel":
        """The latency model of the profile.

        Raises:
            ValueError: it is of another device, or too small.
            FileNotFoundError: there is no such file.
        """
        matching = Matching(
            match="latency",
            latency_profile=self.latency_profile,
            latency_device=self.latency_device,
        )
        return matching.latency

    @property
    def limits(self) -> dict[str, float]:
        """The largest value of each limited cost, by the name of the cost."""
        found = {name: getattr(self, f"max_{name}") for name in COSTS}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that are known: latency only with a profile."""
        return tuple(name for name in COSTS if name != LATENCY or self.latency_profile is not None)

    def check_covers(self, config: ModelConfig) -> None:
        """Check that the costs of a shape are known.

        Raises:
            NotCovered: the latency cannot be predicted for this shape.
        """
        if self.latency_profile is None:
            return
        try:
            self.latency.check_covers(
                num_layers=config.num_layers,
                hidden_size=config.hidden_size,
                vocab_size=config.vocab_size,
            )
        except ValueError as error:
            raise NotCovered(str(error)) from error

    def costs(self, config: ModelConfig, names: Iterable[str] | None = None) -> dict[str, float]:
        """Costs of a shape by name; by default all that are known.

        Raises:
            NotCovered: the latency cannot be predicted for this shape.
        """
        wanted = self.names if names is None else tuple(names)
        if LATENCY in wanted:
            self.check_covers(config)
        return {name: float(COSTS[name].measure(self, config)) for name in wanted}


@dataclass(frozen=True)
class Cost:
    """A cost of a model that follows from its shape."""

    unit: str
    measure: Callable[[Constraints, ModelConfig], float]

    def text(self, amount: float) -> str:
        """The amount with its unit, such as `1,000,000 stored parameters`."""
        number = f"{amount:,.0f}" if amount >= 1000 or amount == math.floor(amount) else None
        return f"{number or f'{amount:.4g}'} {self.unit}"


def _bytes(limits: Constraints, config: ModelConfig) -> float:
    return weight_bits(config, limits.bits, embedding_bits=limits.embedding_bits) / 8


COSTS: dict[str, Cost] = {
    "stored": Cost("stored parameters", lambda _, config: count_parameters(config).stored),
    "body": Cost("body parameters", lambda _, config: count_parameters(config).body),
    "bytes": Cost("bytes of weights", _bytes),
    "flops": Cost(
        "forward FLOPs per token",
        lambda limits, config: flops_per_token(config, limits.sequence_length).forward,
    ),
    "memory": Cost(
        "bytes of weights and KV cache",
        lambda limits, config: (
            _bytes(limits, config) + limits.context * kv_cache_bytes_per_token(config)
        ),
    ),
    "energy": Cost(
        "joules per token, by rule of thumb", lambda _, config: joules_per_token(config)
    ),
    LATENCY: Cost("ms per token", lambda limits, config: limits.latency.predict(config)),
}
"""By name; `max_<name>` limits it, and a search can minimise it."""
