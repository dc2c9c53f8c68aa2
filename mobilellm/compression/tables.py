"""What was planned and what came out, as tables for people, in 80 columns."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilellm.compression.plan import LayerPlan, Plan
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.layers.shapes import FactorizedShape, LayerShape, MaskedShape, PartShape

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


def plan_table(plan: Plan | StructuredPlan) -> "Table":
    """All first, then a row per matrix, or per kind of matrix where there are many.

    Structured pruning: a row per block that stays, or per number of blocks of one size.
    """
    if isinstance(plan, StructuredPlan):
        return _structured_table(plan)
    kinds: dict[str, list[LayerPlan]] = {}
    grouped = len(plan.layers) > MAX_ROWS
    for layer in plan.layers:
        kinds.setdefault(_row_name(layer.name, grouped), []).append(layer)
    dense = sum(layer.size[0] * layer.size[1] for layer in plan.layers)
    kept = sum(layer.stored for layer in plan.layers)
    table = _table(
        f"plan: {len(plan.layers)} matrices, {dense:,} weights, {kept:,} numbers kept", "matrix"
    )
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("becomes", overflow="fold")
    for title in ("kept", "FLOPs", "error"):
        table.add_column(title, justify="right", no_wrap=True)
    if plan.layers:
        table.add_row("all", "", "", *_shares(plan.layers))
        table.add_section()
    for kind, layers in kinds.items():
        sizes = {f"{layer.size[0]}x{layer.size[1]}" for layer in layers}
        table.add_row(
            f"{len(layers)} {kind}" if len(layers) > 1 else kind,
            sizes.pop() if len(sizes) == 1 else "several",
            _becomes([layer.shape for layer in layers]),
            *_shares(layers),
        )
    return table


def _row_name(name: str, grouped: bool) -> str:
    """`gate_proj 12` for blocks.12.feed_forward.gate_proj, or `gate_proj` for all of them."""
    found = re.fullmatch(r"blocks\.(\d+)\..*\.(\w+)", name)
    if found is None:
        return name
    return found[2] if grouped else f"{found[2]} {found[1]}"


def _shares(layers: Sequence[LayerPlan]) -> list[str]:
    """Kept weights, kept operations, and the range of expected errors."""
    dense = sum(layer.size[0] * layer.size[1] for layer in layers)
    kept, flops = sum(layer.stored for layer in layers), sum(layer.flops for layer in layers)
    errors = sorted(f"{e.expected_error:.3f}" for e in layers if e.expected_error is not None)
    ends = list(dict.fromkeys((errors[0], errors[-1]))) if errors else []
    return [f"{kept / dense:.1%}", f"{flops / (2 * dense):.1%}", "-".join(ends)]


def _becomes(shapes: Sequence[LayerShape]) -> str:
    """One shape, a range of ranks, or how many shapes there are."""
    texts = list(dict.fromkeys(map(shape_text, shapes)))
    if len(texts) == 1:
        return texts[0]
    parts = [shape.parts for shape in shapes if isinstance(shape, FactorizedShape)]
    if all(len(own) == 1 and own[0].is_low_rank for own in parts):
        ranks = [own[0].num_terms for own in parts]
        return f"rank {min(ranks)}-{max(ranks)}"
    return f"{len(texts)} shapes"


def shape_text(shape: LayerShape) -> str:
    """`rank 23 + 2 x (43x8)⊗(4x8), permuted` or `5,504 kept`."""
    if isinstance(shape, MaskedShape):
        return str(shape)
    permuted = ", permuted" if shape.indices else ""
    return " + ".join(map(_part_text, shape.parts)) + permuted


def _part_text(part: PartShape) -> str:
    if part.is_low_rank:
        return f"rank {part.num_terms}"
    (m1, n1), (m2, n2) = part.left, part.right
    return f"{part.num_terms} x ({m1}x{n1})⊗({m2}x{n2})"


def _structured_table(plan: StructuredPlan) -> "Table":
    rows: list[tuple[str, str, str]] = []
    if len(plan.blocks) <= MAX_ROWS:
        for block, heads, channels in zip(plan.blocks, plan.heads, plan.channels, strict=True):
            rows.append((str(block), f"{len(heads)}: {_ranges(heads)}", f"{len(channels):,}"))
    else:
        alike: dict[tuple[int, int], list[int]] = {}
        for block, heads, channels in zip(plan.blocks, plan.heads, plan.channels, strict=True):
            alike.setdefault((len(heads), len(channels)), []).append(block)
        for (heads, channels), blocks in alike.items():
            rows.append((_ranges(blocks), f"{heads}", f"{channels:,}"))
    table = _table(f"plan: {len(plan.blocks)} blocks stay", "block kept")
    for name in ("query heads kept", "channels kept"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
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
    """A column per model: counts, kept share, bytes, loss, measured time and memory where known.

    Args:
        rows: `model` (its name), `parameters`, `loss` (nats per token), and perhaps `disk_bytes`,
            `prefill_ms`, `decode_ms_per_token` and `peak_memory_bytes`. Shares are of the first.
    """
    table = _table("measured", "")
    for row in rows:
        table.add_column(row["model"], justify="right")
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


def _table(title: str, first: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        min_width=len(title) + 1,  # or else the title is broken where the table is narrow
    )
    table.add_column(first, no_wrap=True)
    return table
