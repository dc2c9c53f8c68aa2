"""Tables of plans and measurements for the terminal, at most 80 columns wide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

# If there are more matrices (or blocks) than this, a table has one row per kind.
MAX_ROWS = 16
# Key, title, format and scale of each measured quantity.
MEASURED = (
    ("disk_bytes", "on disk, MB", "{:,.3f}", 1e-6),
    ("loss", "loss, nats per token", "{:.4f}", 1.0),
    ("prefill_ms", "prefill, ms", "{:.1f}", 1.0),
    ("decode_ms_per_token", "decode, ms per token", "{:.2f}", 1.0),
    ("peak_memory_bytes", "peak memory, MB", "{:,.1f}", 1e-6),
)


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    justify: Literal["left", "right"] = "left"
    folds: bool = False
    """Whether long cells may be wrapped."""


def make_table(title: str, *columns: Column) -> "Table":
    """Create an empty table."""
    from rich import box  # Compression without tables should not import rich.
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        min_width=len(title) + 1,  # Otherwise the title of a narrow table is wrapped.
    )
    for column in columns:
        if column.folds:
            table.add_column(column.title, justify=column.justify, overflow="fold")
        else:
            table.add_column(column.title, justify=column.justify, no_wrap=True)
    return table


def results_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """Create a table of measured quantities with one column per model.

    Args:
        rows: for each model `model` (its name), `parameters`, `loss` (nats per token) and
            optionally `disk_bytes`, `prefill_ms`, `decode_ms_per_token` and `peak_memory_bytes`.
            The kept share is relative to the first model.
    """
    table = make_table(
        "measured", Column(""), *(Column(row["model"], "right", folds=True) for row in rows)
    )
    first = _kept(rows[0])
    table.add_row("kept", *(f"{_kept(row) / first:.1%}" for row in rows))
    for key, title, text, scale in MEASURED:
        if any(row.get(key) is not None for row in rows):
            values = (row.get(key) for row in rows)
            table.add_row(title, *("" if v is None else text.format(v * scale) for v in values))
    table.add_section()
    counts = ["stored", "embedding", "body", "executed"]
    if any("nonzero" in row["parameters"] for row in rows):
        counts.append("nonzero")
    for name in counts:
        values = (row["parameters"].get(name) for row in rows)
        table.add_row(f"{name} parameters", *("" if v is None else f"{v:,}" for v in values))
    return table


def _kept(row: Mapping[str, Any]) -> int:
    """Number of stored parameters, without masked ones."""
    return row["parameters"].get("nonzero", row["parameters"]["stored"])
