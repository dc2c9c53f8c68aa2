"""The best learning rates as rows of text, for the terminal and the page."""

from collections.abc import Sequence

from mobilellm.report.rate_curves import RateCurve
from mobilellm.units import MISSING, rate_text

RATE_HEADS = (
    "shape",
    "recipe",
    "rates",
    "best",
    "loss",
    "next lower",
    "next higher",
    "estimate",
    "interior",
)


def rate_rows(curves: Sequence[RateCurve]) -> list[list[str]]:
    """Return one row per curve, with the cells of `RATE_HEADS`."""
    return [
        [
            curve.label,
            curve.recipe,
            f"{rate_text(curve.rates[0])}–{rate_text(curve.rates[-1])}",
            rate_text(curve.best),
            f"{curve.losses[curve.place]:.3f}",
            _excess(curve, -1),
            _excess(curve, 1),
            rate_text(curve.estimate),
            "yes" if curve.is_interior else "no",
        ]
        for curve in curves
    ]


def _excess(curve: RateCurve, side: int) -> str:
    """How much higher the loss is at the next rate on one side of the best one."""
    place = curve.place + side
    if not 0 <= place < len(curve.rates):
        return MISSING
    return f"{curve.losses[place] - curve.losses[curve.place]:+.3f}"
