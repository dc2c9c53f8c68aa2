"""The results as a table of at most 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from scripts.benchmarks.time_to_loss.trials import ADAMW, HUGGINGFACE, LITGPT, OURS

NAMES = {
    LITGPT: "LitGPT",
    HUGGINGFACE: "HF Trainer",
    ADAMW: "our AdamW",
    OURS: "our recipe",
}

CAPTION = """\
±: half the range over the seeds. seconds: median training time. tokens to, time
to: what our recipe takes to reach the mean loss of that line, as a share of the
tokens and of the training time of that line.
"""


def table(results: Mapping[str, Any]) -> Table:
    """One line per contender and budget; `CAPTION` explains the columns."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("trained")
    for name in ("rate", "batch", "tokens", "loss", "seconds", "tokens to", "time to"):
        shown.add_column(name, justify="right")
    needed = {one["contender"]: one for one in results["reached"]}
    for row in results["rows"]:
        shown.add_row(*_cells(row, needed.get(row["contender"])))
    return shown


def _cells(row: Mapping[str, Any], needed: Mapping[str, Any] | None) -> list[str]:
    losses, tokens = row["losses"], row["tokens"]
    return [
        NAMES[row["contender"]],
        "" if row["learning_rate"] is None else f"{row['learning_rate']:.2g}",
        "" if row["tokens_per_step"] is None else str(row["tokens_per_step"]),
        "" if tokens is None else f"{tokens / 1000:,.0f}k",
        f"{row['loss']:.3f} ±{(max(losses) - min(losses)) / 2:.3f}",
        f"{row['median_wall_seconds']:.1f}",
        *_shares(needed),
    ]


def _shares(needed: Mapping[str, Any] | None) -> tuple[str, str]:
    if needed is None:
        return "", ""
    if needed["share_of_tokens"] is None:
        return "not", "reached"
    return f"{needed['share_of_tokens']:.2f}", f"{needed['wall_ratio']:.2f}"
