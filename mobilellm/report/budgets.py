"""What configurations have in common: parameters, FLOPs, bytes, tokens and latency."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mobilellm.accounting import weight_bytes
from mobilellm.report.run_groups import RunGroup
from mobilellm.units import bytes_text, count_text, join_names

TOLERANCE = 0.02
"""Budgets count as equal if their `spread` is at most this, which is the solver's tolerance."""
MEASURED_TOLERANCE = 0.05
"""The same for measured latencies."""

GAP = 0.15
"""If one budget exceeds the next smaller one by more than this fraction, the two are regarded as
different on purpose."""

EXACTLY = 0.0005
"""A spread that is shown as 0: runs end after a whole optimizer step."""
TOKENS, FLOPS = "training tokens", "training FLOPs"

DEFAULT_BITS = 4
"""Bits per weight for the bytes of weights, if the runs were not matched at other bits."""


@dataclass(frozen=True)
class Quantity:
    """Something that can be equal for all configurations."""

    name: str
    value: Callable[[RunGroup], float | None]
    """None: unknown."""
    text: Callable[[float], str] = count_text
    is_size: bool = True
    """Whether configurations that differ in it are of different budgets."""
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Budget:
    """The smallest and the largest value of one quantity over several configurations."""

    quantity: Quantity
    smallest: float
    largest: float
    largest_label: str
    """Label of the configuration with the largest value."""

    @property
    def name(self) -> str:
        """Name of the quantity, e.g. `body parameters`."""
        return self.quantity.name

    @property
    def spread(self) -> float:
        """Half of the range, relative to the midrange."""
        total = self.largest + self.smallest
        return (self.largest - self.smallest) / total if total else 0.0

    @property
    def is_matched(self) -> bool:
        """Whether all configurations are equal within the tolerance of the quantity."""
        return self.spread <= self.quantity.tolerance

    @property
    def range_text(self) -> str:
        """`1.00M–1.02M`."""
        text = self.quantity.text
        return "–".join(dict.fromkeys((text(self.smallest), text(self.largest))))

    @property
    def spread_text(self) -> str:
        """`±0.9 %`, `exactly`, or `× 2.3` between the smallest and the largest if that is far."""
        if self.spread < EXACTLY:
            return "exactly"
        if self.smallest and self.largest > 2 * self.smallest:
            return f"× {self.largest / self.smallest:.2g}"
        return f"±{100 * self.spread:.1f} %"

    def __str__(self) -> str:
        """`body parameters 1.00M–1.02M (±0.9 %, most in 24×64)`."""
        most = f", most in {self.largest_label}" if self.largest > self.smallest else ""
        return f"{self.name} {self.range_text} ({self.spread_text}{most})"


@dataclass(frozen=True)
class HeldEqual:
    """Which quantities are equal for some configurations, and which are not."""

    labels: tuple[str, ...]
    budgets: tuple[Budget, ...]

    def __str__(self) -> str:
        """`Held equal: body parameters 1.00M (±0.3 %). Not equal: stored parameters (±12 %)`."""
        # At equal tokens, the FLOPs of training differ as those per token do.
        tokens = next(budget for budget in self.budgets if budget.name == TOKENS)
        shown = [b for b in self.budgets if b.name != FLOPS or tokens.spread > EXACTLY]
        equal = [f"{b.name} {b.range_text} ({b.spread_text})" for b in shown if b.is_matched]
        others = [f"{b.name} ({b.spread_text})" for b in shown if not b.is_matched]
        parts = [f"Held equal: {join_names(equal) or 'nothing'}."]
        parts += [f"Not equal: {join_names(others)}."] if others else []
        return " ".join(parts)


def quantities(groups: Sequence[RunGroup]) -> tuple[Quantity, ...]:
    """The quantities in which these configurations are compared, sizes first.

    Bytes are those at the bits at which the runs were matched, if there are such runs.
    """
    settings = [_bits(group) for group in groups]
    bits = next((found for found in settings if found), (DEFAULT_BITS, None))
    return (*_SIZES, bytes_at(*bits), *_OTHERS)


def bytes_at(bits: int, embedding_bits: int | None) -> Quantity:
    """The bytes of the stored weights at a bit width."""
    embedding = f", {embedding_bits} in the embedding" if embedding_bits else ""
    return Quantity(
        f"bytes of weights at {bits} bits{embedding}",
        lambda group: weight_bytes(group.model, bits, embedding_bits=embedding_bits),
        bytes_text,
    )


def budgets(groups: Sequence[RunGroup]) -> tuple[Budget, ...]:
    """Return the range of each quantity that is known for all configurations."""
    found = []
    for quantity in quantities(groups):
        values = {group.label: quantity.value(group) for group in groups}
        known = {label: value for label, value in values.items() if value is not None}
        if len(known) == len(values):
            most = max(known, key=lambda label: known[label])
            found.append(Budget(quantity, min(known.values()), known[most], most))
    return tuple(found)


def held_equal(groups: Sequence[RunGroup]) -> tuple[HeldEqual, ...]:
    """What the configurations of each budget have in common; small budgets first."""
    return tuple(
        HeldEqual(tuple(group.label for group in subset), budgets(subset))
        for subset in split_by_budget(groups)
        if len(subset) > 1
    )


def split_by_budget(groups: Sequence[RunGroup]) -> tuple[tuple[RunGroup, ...], ...]:
    """Divide configurations into subsets of about equal budget, small budgets first.

    The budget is the quantity that gives the fewest subsets; among several such quantities, it is
    the one that varies least within the subsets. The order within a subset is kept.
    """
    if not groups:
        return ()
    order = {group.label: index for index, group in enumerate(groups)}
    divisions = []
    for quantity in quantities(groups):
        values = {group.label: quantity.value(group) for group in groups}
        known = {label: value for label, value in values.items() if value is not None}
        if quantity.is_size and len(known) == len(groups):
            divisions.append((_split(groups, known), known))
    subsets, _ = min(divisions, key=lambda item: (len(item[0]), _variation(*item)))
    return tuple(tuple(sorted(subset, key=lambda group: order[group.label])) for subset in subsets)


def training_flops(group: RunGroup) -> float:
    """FLOPs of the whole training of one run."""
    return group.first.flops_per_token["training"] * group.first.tokens


def predicted_latency(group: RunGroup) -> float | None:
    """Milliseconds per token that the shape was solved for; None if it was solved otherwise."""
    is_latency = group.first.fact("matched.match") == "latency"
    return group.first.number("matched.reached") if is_latency else None


def _bits(group: RunGroup) -> tuple[int, int | None] | None:
    bits, embedding = (group.first.setting(f"model.{n}") for n in ("bits", "embedding_bits"))
    is_known = isinstance(bits, int) and group.first.setting("model.match") == "bytes"
    return (bits, embedding if isinstance(embedding, int) else None) if is_known else None


def ms_text(value: float) -> str:
    """Format a latency: `2.31 ms`."""
    return f"{value:.3g} ms"


_SIZES = (
    Quantity("body parameters", lambda group: group.first.parameters["body"]),
    Quantity("stored parameters", lambda group: group.first.parameters["stored"]),
    Quantity("training FLOPs per token", lambda group: group.first.flops_per_token["training"]),
    Quantity(FLOPS, training_flops),
    Quantity("predicted decode latency", predicted_latency, ms_text),
)
_OTHERS = (
    Quantity(TOKENS, lambda group: group.first.tokens, is_size=False),
    Quantity(
        "measured decode latency", lambda group: group.latency_ms, ms_text, is_size=False,
        tolerance=MEASURED_TOLERANCE,
    ),
)  # fmt: skip


def _split(groups: Sequence[RunGroup], values: Mapping[str, float]) -> list[list[RunGroup]]:
    """Subsets that are separated by gaps of more than `GAP`."""
    subsets: list[list[RunGroup]] = []
    for group in sorted(groups, key=lambda group: values[group.label]):
        if subsets and values[group.label] <= (1 + GAP) * values[subsets[-1][-1].label]:
            subsets[-1].append(group)
        else:
            subsets.append([group])
    return subsets


def _variation(subsets: Sequence[Sequence[RunGroup]], values: Mapping[str, float]) -> float:
    """The largest ratio of two values within a subset."""
    return max(values[subset[-1].label] / values[subset[0].label] for subset in subsets)
