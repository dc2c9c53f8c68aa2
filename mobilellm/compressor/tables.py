"""What was planned and what came out, as tables for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilellm.compressor.plan import Plan
from mobilellm.compressor.structured_plan import StructuredPlan

if TYPE_CHECKING:
    from rich.table import Table


def plan_table(plan: Plan | StructuredPlan) -> "Table":
    """A row per layer: shape before and after, parameters, operations, expected error.

    Structured pruning: a row per block that stays.
    """
    from rich.table import Table

    if isinstance(plan, StructuredPlan):
        return _structured_table(plan)
    table = Table(title="plan", title_justify="left")
    table.add_column("layer")
    table.add_column("size", justify="right")
    table.add_column("becomes")
    for name in ("parameters", "kept", "FLOPs kept", "expected error"):
        table.add_column(name, justify="right")
    dense = kept = 0
    for layer in plan.layers:
        rows, columns = layer.size
        size = rows * columns
        table.add_row(
            layer.name, f"{rows}x{columns}", str(layer.shape), f"{layer.parameters:,}",
            f"{layer.parameters / size:.1%}", f"{layer.flops / (2 * size):.1%}",
            "" if layer.expected_error is None else f"{layer.expected_error:.3f}",
        )  # fmt: skip
        dense, kept = dense + size, kept + layer.parameters
    if dense:
        table.add_section()
        table.add_row("all", "", f"{dense:,} before", f"{kept:,}", f"{kept / dense:.1%}")
    return table


def _structured_table(plan: StructuredPlan) -> "Table":
    from rich.table import Table

    table = Table(title="plan", title_justify="left")
    for name in ("block kept", "query heads kept", "channels kept"):
        table.add_column(name, justify="right")
    for block, heads, channels in zip(plan.blocks, plan.heads, plan.channels, strict=True):
        table.add_row(str(block), f"{len(heads)}: {_ranges(heads)}", f"{len(channels):,}")
    return table


def _ranges(indices: Sequence[int]) -> str:
    """`0-3, 6`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], index]
        else:
            runs.append([index])
    return ", ".join("-".join(map(str, run)) for run in runs)


def results_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """A row per model: the four counts, loss, and measured time and memory where they are known.

    Args:
        rows: `model` (its name), `parameters`, `loss` (nats per token), and perhaps `prefill_ms`,
            `decode_ms_per_token` and `peak_memory_bytes`.
    """
    from rich.table import Table

    counts = [n for n in rows[0]["parameters"] if any(n in r["parameters"] for r in rows)]
    if any("nonzero" in row["parameters"] for row in rows):
        counts = [*(n for n in counts if n != "nonzero"), "nonzero"]
    measured = {
        "prefill_ms": ("prefill, ms", "{:.1f}"),
        "decode_ms_per_token": ("decode, ms a token", "{:.2f}"),
        "peak_memory_bytes": ("peak memory, MB", "{:.1f}"),
    }
    shown = [key for key in measured if any(row.get(key) is not None for row in rows)]
    table = Table(title="measured", title_justify="left")
    table.add_column("model")
    titles = [*counts, "loss, nats per token", *(measured[key][0] for key in shown)]
    for title in titles:
        table.add_column(title, justify="right")
    for row in rows:
        numbers = [
            "" if row["parameters"].get(n) is None else f"{row['parameters'][n]:,}" for n in counts
        ]
        values = []
        for key in shown:
            value = row.get(key)
            scale = 1e-6 if key == "peak_memory_bytes" else 1
            values.append("" if value is None else measured[key][1].format(value * scale))
        table.add_row(row["model"], *numbers, f"{row['loss']:.4f}", *values)
    return table
