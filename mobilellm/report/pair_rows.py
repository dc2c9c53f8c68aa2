"""Comparison with a single reference: rows for the terminal and the page."""

import math
from dataclasses import dataclass

from mobilellm.report.analysis import Analysis
from mobilellm.report.findings import UNIT
from mobilellm.report.interval_text import signed_text
from mobilellm.report.statistics import NOT_COMPARABLE, Pair
from mobilellm.units import MISSING, plural


@dataclass(frozen=True)
class ReferenceRow:
    """One configuration compared with the reference."""

    label: str
    pair: Pair | None
    """None for the reference itself."""
    difference: str
    verdict: str
    p_value: str
    """The p-value, corrected for all pairs."""
    seeds: str
    """Number of common seeds."""


def reference_rows(analysis: Analysis) -> list[ReferenceRow]:
    """Return one row per configuration, the lowest loss first, those not comparable last."""
    reference = analysis.reference or ""
    found = [_row(group.label, analysis.pair(group.label, reference)) for group in analysis.groups]
    return sorted(found, key=_place)


def reference_caption(analysis: Analysis) -> str:
    """Return a caption that names the reference, the unit and the number of corrected tests."""
    unit = UNIT[analysis.metric or "val_loss"]
    tested = sum(pair.p_value is not None for pair in analysis.pairs)
    what = "baseline" if analysis.is_baseline else "lowest loss"
    family = (
        f"corrected for {plural(tested, 'pair')}"
        if analysis.is_baseline
        else f"corrected for all {plural(tested, 'pair')}, since the reference was chosen by its "
        "loss; --baseline needs fewer tests"
    )
    caption = f"Compared with {analysis.reference} ({what}), difference in {unit}"
    return f"{caption}; {family}:" if tested else f"{caption}:"


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
