"""Each shape against one reference: rows for the terminal and the page."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.report.findings import UNIT
from mobilellm.report.interval_text import signed_text
from mobilellm.report.statistics import NOT_COMPARABLE, Pair
from mobilellm.units import MISSING, plural

if TYPE_CHECKING:
    from mobilellm.report.comparison import Comparison


@dataclass(frozen=True)
class ReferenceRow:
    """One shape as compared with the reference."""

    label: str
    pair: Pair | None
    """None for the reference itself."""
    difference: str
    verdict: str
    p_value: str
    """After Holm's procedure."""
    seeds: str
    """Seeds that both have."""


def reference_rows(comparison: "Comparison") -> list[ReferenceRow]:
    """The lowest loss first; those that cannot be compared at the end."""
    reference = comparison.reference or ""
    found = [
        _row(shape.label, comparison.pair(shape.label, reference)) for shape in comparison.shapes
    ]
    return sorted(found, key=_place)


def reference_caption(comparison: "Comparison") -> str:
    """What is compared with what, and how many tests are corrected for."""
    unit = UNIT[comparison.metric or "val_loss"]
    tested = sum(pair.p_value is not None for pair in comparison.pairs)
    what = "baseline" if comparison.is_baseline else "lowest loss"
    family = (
        f"Holm’s correction counts {plural(tested, 'pair')}"
        if comparison.is_baseline
        else f"Holm’s correction counts all {plural(tested, 'pair')}, since the lowest is known "
        "only afterwards; --baseline names one beforehand"
    )
    return f"Against {comparison.reference} ({what}), difference in {unit}; {family}:"


def _row(label: str, pair: Pair | None) -> ReferenceRow:
    if pair is None:
        return ReferenceRow(label, None, "·", "reference", "", "")
    difference = MISSING if pair.difference is None else signed_text(pair.difference)
    verdict = pair.reason if pair.verdict == NOT_COMPARABLE else pair.verdict
    p_value = MISSING if pair.adjusted_p_value is None else f"{pair.adjusted_p_value:.2g}"
    return ReferenceRow(label, pair, difference, verdict, p_value, str(len(pair.seeds)))


def _place(row: ReferenceRow) -> float:
    if row.pair is None:
        return 0.0
    return math.inf if row.pair.difference is None else row.pair.difference.mean
