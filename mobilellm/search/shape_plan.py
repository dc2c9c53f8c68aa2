"""Chooses shape and tokens for a compute budget by the law of the loss."""

import functools
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilellm.accounting import (
    count_parameters,
    flops_per_token,
    kv_cache_bytes_per_token,
    weight_bytes,
)
from mobilellm.models import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.search.latency import LatencyModel
from mobilellm.search.loss_law import LossLaw, Prediction
from mobilellm.units import bytes_text

DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
WIDTH_FACTOR = 1.06
"""Ratio of neighbouring widths, as far as the width of a head allows."""
MOST_LOSS = 1.1
"""Depths beyond one whose loss exceeds the lowest by this factor are not considered."""
FEWEST_TOKENS_PER_PARAMETER = 0.5
"""Wider shapes of a depth, which the budget trains on fewer tokens, are not considered."""


@dataclass(frozen=True, kw_only=True)
class ShapeFamily:
    """What all shapes of a ladder have in common."""

    fields: Mapping[str, Any]
    """Fields of `ModelConfig` except the sizes that vary."""
    group_size: int
    """Query heads per key-value head."""
    feed_forward_ratio: float
    """Feed-forward width as a multiple of the width."""
    alignment: int
    """Divisor of the feed-forward width."""

    def config(self, depth: int, width: int) -> ModelConfig:
        """The shape of this depth and width."""
        heads = width // self.fields["head_dim"]
        inner = max(1, round(self.feed_forward_ratio * width / self.alignment)) * self.alignment
        return ModelConfig(
            **{
                **self.fields,
                "num_blocks": depth,
                "hidden_size": width,
                "intermediate_size": inner,
                "num_attention_heads": heads,
                "num_key_value_heads": heads // self.group_size,
            }
        )

    @property
    def width_step(self) -> int:
        """All widths are multiples of it."""
        return self.fields["head_dim"] * self.group_size


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a shape must not exceed; None: no limit."""

    max_bytes: float | None = None
    """Bytes of the weights, and of the KV cache of `context` tokens at 16 bits if it is given."""
    bits: int = 16
    """Bits per weight."""
    context: int | None = None
    """Tokens that the model must be able to read."""
    max_latency_ms: float | None = None
    """Milliseconds per decoded token, as `latency` predicts them."""
    latency: LatencyModel | None = None
    """Shapes outside the range of its device profile are excluded."""

    def __post_init__(self) -> None:
        """Check that a latency can be predicted.

        Raises:
            ValueError: there is a largest latency without a latency model, or the reverse.
        """
        if (self.max_latency_ms is None) != (self.latency is None):
            raise ValueError("max_latency_ms and latency limit shapes together; give both or none")

    def covers(self, depth: int, width: int) -> bool:
        """Whether it is known if a shape meets the limits."""
        if self.latency is None:
            return True
        (shallow, deep), (narrow, wide) = self.latency.depths, self.latency.widths
        return shallow <= depth <= deep and narrow <= width <= wide

    def allow(self, config: ModelConfig) -> bool:
        """Whether a shape meets the limits."""
        is_small = self.max_bytes is None or self.bytes_of(config) <= self.max_bytes
        return is_small and (
            self.latency is None or self.latency.predict(config) <= (self.max_latency_ms or 0.0)
        )

    def bytes_of(self, config: ModelConfig) -> float:
        """The bytes that `max_bytes` limits."""
        cache = kv_cache_bytes_per_token(config) * (self.context or 0)
        return weight_bytes(config, self.bits) + cache


@dataclass(frozen=True)
class Candidate:
    """A shape with the tokens that the budget trains it on."""

    config: ModelConfig
    body: int
    tokens: int
    loss: float
    """Expected by the law, in nats per token."""

    @property
    def point(self) -> tuple[float, float, float]:
        """Depth, width and tokens."""
        return (self.config.num_layers, self.config.hidden_size, self.tokens)


@dataclass(frozen=True)
class ShapePlan:
    """The recommended shape, and the best shapes of other depths."""

    best: Candidate
    expected: Prediction
    """The loss of a run, with its 95 % interval."""
    outside: Mapping[str, float]
    """By which factor depth, width, tokens and body parameters are outside the fitted range."""
    others: tuple[tuple[Candidate, Prediction], ...]
    """The best shape of each other depth, with its expected loss minus that of the best."""

    @property
    def is_decided(self) -> bool:
        """Whether the law tells the best shape from that of every other depth."""
        return all(difference.low > 0 for _, difference in self.others)


def plan_shape(
    law: LossLaw,
    family: ShapeFamily,
    tokens_of: Callable[[ModelConfig], float],
    limits: Limits,
) -> ShapePlan:
    """Find the shape and the number of tokens with the lowest expected loss.

    Args:
        law: the fitted law.
        family: what the shapes have in common.
        tokens_of: number of tokens that the compute budget trains a shape on.
        limits: what a shape must not exceed.

    Raises:
        ValueError: no shape meets the limits, or the budget trains none on enough tokens.
    """
    by_depth: list[Candidate] = []
    for depth in DEPTHS:
        found = _best(law, family, depth, tokens_of, limits)
        if found is not None:
            by_depth.append(found)
            # The lowest loss of a depth is convex in its logarithm, as in `_best`, so that greater
            # depths are worse still.
            if found.loss > MOST_LOSS * min(candidate.loss for candidate in by_depth):
                break
    if not by_depth:
        raise ValueError(_refusal(family, tokens_of, limits))
    best, *rest = sorted(by_depth, key=lambda candidate: candidate.loss)
    return ShapePlan(
        best,
        law.prediction(*best.point),
        law.outside(*best.point, best.body),
        tuple((other, law.difference(other.point, best.point)) for other in rest),
    )


def _best(
    law: LossLaw,
    family: ShapeFamily,
    depth: int,
    tokens_of: Callable[[ModelConfig], float],
    limits: Limits,
) -> Candidate | None:
    """The best shape of a depth; None if none meets the limits and the budget.

    The loss is convex in the logarithm of the width, apart from the rounding of sizes: the term of
    the width is, and so is that of the tokens, because their cost is a sum of powers of the width.
    The limits exclude all widths above some width. The best width is therefore found by bisection.
    """
    covered = [width for width in widths(family) if limits.covers(depth, width)]

    @functools.cache
    def candidate(place: int) -> Candidate | None:
        config = family.config(depth, covered[place])
        if not limits.allow(config):
            return None
        body, tokens = count_parameters(config).body, int(tokens_of(config))
        if tokens < FEWEST_TOKENS_PER_PARAMETER * body:
            return None
        loss = law.predict(np.array([[depth, covered[place], tokens]], float))
        return Candidate(config, body, tokens, float(loss[0]))

    def is_last(place: int) -> bool:
        """Whether the next width is not better."""
        here, following = candidate(place), candidate(place + 1)
        return here is None or following is None or following.loss >= here.loss

    if not covered or candidate(0) is None:
        return None
    return candidate(bisect_left(range(len(covered) - 1), True, key=is_last))


def widths(family: ShapeFamily) -> Sequence[int]:
    """The widths that are considered, in ascending order."""
    step, found = family.width_step, [family.width_step]
    while found[-1] < 2**16:
        found.append(max(found[-1] + step, round(found[-1] * WIDTH_FACTOR / step) * step))
    return found


def _refusal(family: ShapeFamily, tokens_of: Callable[[ModelConfig], float], limits: Limits) -> str:
    """Which limit or budget even the smallest shape misses."""
    covered = (
        family.config(depth, width)
        for depth in DEPTHS
        for width in widths(family)
        if limits.covers(depth, width)
    )
    smallest = next(covered, None)
    if smallest is None:
        known = "" if limits.latency is None else limits.latency.range_text
        return f"no shape of the ladder lies in the device profile of {known}; measure another one"
    name = shape_name(smallest)
    if limits.max_bytes is not None and limits.bytes_of(smallest) > limits.max_bytes:
        return (
            f"no shape meets max-bytes={limits.max_bytes:,.0f} at {limits.bits} bits: the "
            f"smallest, {name}, has {bytes_text(limits.bytes_of(smallest))}; allow more bytes, or "
            "use fewer bits, a smaller vocabulary or a shorter context"
        )
    if limits.latency is not None and not limits.allow(smallest):
        return (
            f"no shape meets max-latency-ms={limits.max_latency_ms:g}: the smallest in the device "
            f"profile, {name}, takes {limits.latency.predict(smallest):.3g} ms per token; allow "
            "more, or measure smaller shapes"
        )
    return (
        f"the compute budget trains the smallest shape, {name}, on {tokens_of(smallest):,.0f} "
        f"tokens, less than {FEWEST_TOKENS_PER_PARAMETER:g} per body parameter; give more FLOPs or "
        "hours"
    )


def tokens_by_flops(flops: float, sequence_length: int) -> Callable[[ModelConfig], float]:
    """The number of tokens that a number of training FLOPs allows for each shape."""
    return lambda config: flops / flops_per_token(config, sequence_length).training
