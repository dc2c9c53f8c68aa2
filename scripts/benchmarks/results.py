"""Writes results as a table for the terminal and as JSON."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mobilellm.units import bytes_text, si_text

Row = Mapping[str, Any]


def results_table(title: str, rows: Sequence[Row]) -> Table:
    """Return a table with one column per quantity, or one line per quantity of a single row."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    if len(rows) == 1:
        table.show_header = False
        table.add_column("")
        table.add_column("", justify="right")
        for name, value in rows[0].items():
            table.add_row(name.replace("_", " "), cell(name, value))
        return table
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(cell(name, row[name]) if name in row else "" for name in names))
    return table


def cell(name: str, value: Any) -> str:
    """Format a value in the unit that its name implies."""
    if not isinstance(value, (int, float)):
        return str(value)
    if name.endswith("_bytes"):
        text = bytes_text(value)
    elif name.endswith("bytes_per_second"):
        text = f"{bytes_text(value)}/s"
    elif "share" in name or name == "overhead":
        text = f"{value:.1%}"
    elif name == "ratio":
        text = f"{value:.2f}"
    elif name.endswith(("flops_per_second", "parameters")):
        text = si_text(value)
    else:
        text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return text


def known_results(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by the name of their part, from a file of `write_results`; empty if there is none."""
    return json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}


def write_results(path: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Add results to a JSON file; a part that is measured again replaces its earlier rows."""
    from mobilellm.provenance import device_name

    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known |= {"device": device_name("cpu"), "cores": os.cpu_count()}
    known.setdefault("results", {}).update(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n", encoding="utf-8")
