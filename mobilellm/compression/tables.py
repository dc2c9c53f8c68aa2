"""Tables for people, in 80 columns: what was planned and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

# With more matrices (or blocks) than this, those of one kind share a row.
MAX_ROWS = 16
# Titles and formats of what is known of each model.
MEASURED = (
    ("disk_bytes", "on disk, MB", "{:,.3f}", 1e-6),
    ("loss", "loss, nats per token", "{:.4f}", 1.0),
    ("prefill_ms", "prefill, ms", "{:.1f}", 1.0),
    ("decode_ms_per_token", "decode, ms a token", "{:.2f}", 1.0),
    ("peak_memory_bytes", "peak memory, MB", "{:,.1f}", 1e-6),
)


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    justify: Literal["left", "right"] = "left"
    folds: bool = False
    """Whether long cells may be broken into lines."""


def make_table(title: str, *columns: Column) -> "Table":
    """An empty table."""
    from rich import box  # of those who compress, not all print
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        min_width=len(title) + 1,  # otherwise the title of a narrow table is broken
    )
    for column in columns:
        if column.folds:
            table.add_column(column.title, justify=column.justify, overflow="fold")
        else:
            table.add_column(column.title, justify=column.justify, no_wrap=True)
    return table


def results_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """One column per model: kept share, bytes, loss, measured time and memory if known, counts.

    Args:
        rows: `model` (its name), `parameters`, `loss` (nats per token), and perhaps `disk_bytes`,
            `prefill_ms`, `decode_ms_per_token` and `peak_memory_bytes`. Shares are of the first.
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
    """Stored parameters, of masked matrices those that are not zero."""
    return row["parameters"].get("nonzero", row["parameters"]["stored"])
