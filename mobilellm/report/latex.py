"""The main table in LaTeX."""

from collections.abc import Sequence

from mobilellm.report.columns import shown_columns
from mobilellm.report.interval_text import signed_text
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.statistics import Pair
from mobilellm.units import MISSING

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "≈": r"$\approx$", "⊗": r"$\otimes$",
    "–": "--", "…": r"\dots{}", "½": r"$\frac{1}{2}$", "⅓": r"$\frac{1}{3}$",
    "⅔": r"$\frac{2}{3}$", "¼": r"$\frac{1}{4}$", "¾": r"$\frac{3}{4}$", "⅛": r"$\frac{1}{8}$",
}  # fmt: skip
"""LaTeX for characters of labels and numbers that are special in LaTeX or may be undefined."""


def latex_table(groups: Sequence[RunGroup]) -> str:
    """Return a `tabular` with one row per configuration, for the LaTeX package booktabs.

    Columns without any value are left out.

    Raises:
        ValueError: there is no configuration.
    """
    if not groups:
        raise ValueError(
            "there are no finished runs for the table; compressed models are in the attribute "
            "`compressed`"
        )
    columns = shown_columns(groups)
    heads = ["configuration", *(column.name for column in columns)]
    rows = [[group.label, *(column.text(group) for column in columns)] for group in groups]
    return _tabular("l" + "r" * len(columns), heads, rows)


def latex_pairs(pairs: Sequence[Pair]) -> str:
    """Return a `tabular` with one row per pair: difference, verdict, p-value and common seeds.

    Raises:
        ValueError: there is no pair.
    """
    if not pairs:
        raise ValueError("there are no pairs to tabulate; compare at least two configurations")
    heads = ["first", "second", "difference", "verdict", "corrected p", "seeds"]
    rows = [
        [
            pair.first,
            pair.second,
            MISSING if pair.difference is None else signed_text(pair.difference),
            pair.verdict,
            MISSING if pair.adjusted_p_value is None else f"{pair.adjusted_p_value:.2g}",
            str(len(pair.seeds)),
        ]
        for pair in pairs
    ]
    return _tabular("llrlrr", heads, rows)


def latex_text(text: str) -> str:
    """Escape all characters of a text that are special in LaTeX."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _tabular(columns: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(heads),
            r"\midrule",
            *map(_row, rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
