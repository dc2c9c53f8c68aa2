"""The columns of the main table, for the terminal, the page and LaTeX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mobilellm.report.interval_text import interval_text
from mobilellm.report.run_groups import RunGroup
from mobilellm.units import MISSING, bytes_text, count_text


@dataclass(frozen=True)
class Column:
    """One quantity of a configuration."""

    name: str
    meaning: str
    """What the column shows, with the unit."""
    text: Callable[[RunGroup], str]
    value: Callable[[RunGroup], float | None]
    """The number by which the column is sorted."""
    is_result: bool
    """Whether it was measured; otherwise it follows from the configuration."""


def _count(name: str, key: str, meaning: str) -> Column:
    return Column(
        name,
        meaning,
        lambda group: count_text(group.first.parameters[key]),
        lambda group: float(group.first.parameters[key]),
        is_result=False,
    )


def _loss(name: str, metric: str, meaning: str) -> Column:
    def mean(group: RunGroup) -> float | None:
        found = group.interval(metric)
        return found.mean if found else None

    return Column(
        name, meaning, lambda group: interval_text(group.interval(metric)), mean, is_result=True
    )


def _median(name: str, path: str, text: Callable[[float | None], str], meaning: str) -> Column:
    return Column(
        name,
        meaning,
        lambda group: text(group.median(path)),
        lambda group: group.median(path),
        is_result=True,
    )


COLUMNS = (
    _count("stored", "stored", "parameters stored"),
    _count("embed.", "embedding", "parameters of the token embedding, and of an untied head"),
    _count("body", "body", "stored parameters without the embedding"),
    _count("executed", "executed", "parameters, counted once per application"),
    Column(
        "FLOPs/tok",
        "training FLOPs per token, attention included",
        lambda group: count_text(group.first.flops_per_token["training"]),
        lambda group: group.first.flops_per_token["training"],
        is_result=False,
    ),
    Column(
        "tokens",
        "training tokens per run",
        lambda group: count_text(group.first.tokens),
        lambda group: float(group.first.tokens),
        is_result=False,
    ),
    Column(
        "seeds",
        "finished runs, one per seed",
        lambda group: str(len(group.seeds)),
        lambda group: float(len(group.seeds)),
        is_result=True,
    ),
    _loss("loss", "val_loss", "validation loss, nats per token, mean ± 95 % interval over seeds"),
    _loss(
        "bits/byte",
        "val_bits_per_byte",
        "validation loss, bits per byte of text, mean ± 95 % interval over seeds",
    ),
    _median("tok/s", "tokens_per_second", count_text, "training tokens per second, median"),
    Column(
        "ms/token",
        "milliseconds per generated token at batch size 1, measured side by side for this report",
        lambda group: MISSING if group.latency_ms is None else f"{group.latency_ms:.3g}",
        lambda group: group.latency_ms,
        is_result=True,
    ),
    _median(
        "memory",
        "peak_memory_bytes",
        partial(bytes_text, aligned=True),
        "peak memory of training, median",
    ),
)


def shown_columns(groups: Sequence[RunGroup]) -> list[Column]:
    """Return the columns that have a value for at least one configuration."""
    return [
        column for column in COLUMNS if any(column.value(group) is not None for group in groups)
    ]
