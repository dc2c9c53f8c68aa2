"""The columns of the table: one list for the terminal and the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mobilellm.report.interval_text import interval_text
from mobilellm.report.shapes import Shape
from mobilellm.units import bytes_text, count_text


@dataclass(frozen=True)
class Column:
    """One quantity of a shape."""

    name: str
    meaning: str
    """With its unit."""
    text: Callable[[Shape], str]
    value: Callable[[Shape], float | None]
    """What it is sorted by."""
    is_result: bool
    """Whether it was measured; otherwise it follows from the configuration."""


def _count(name: str, key: str, meaning: str) -> Column:
    return Column(
        name,
        meaning,
        lambda shape: count_text(shape.first.parameters[key]),
        lambda shape: float(shape.first.parameters[key]),
        is_result=False,
    )


def _loss(name: str, metric: str, meaning: str) -> Column:
    def mean(shape: Shape) -> float | None:
        found = shape.interval(metric)
        return found.mean if found else None

    return Column(
        name, meaning, lambda shape: interval_text(shape.interval(metric)), mean, is_result=True
    )


def _median(name: str, path: str, text: Callable[[float | None], str], meaning: str) -> Column:
    return Column(
        name,
        meaning,
        lambda shape: text(shape.median(path)),
        lambda shape: shape.median(path),
        is_result=True,
    )


COLUMNS = (
    _count("stored", "stored", "parameters stored"),
    _count("embed.", "embedding", "parameters of the token embedding, and of an untied head"),
    _count("body", "body", "stored parameters without the embedding"),
    _count("executed", "executed", "parameters counted each time they run"),
    Column(
        "FLOPs/tok",
        "training FLOPs per token, attention included",
        lambda shape: count_text(shape.first.flops_per_token["training"]),
        lambda shape: shape.first.flops_per_token["training"],
        is_result=False,
    ),
    Column(
        "tokens",
        "training tokens of a run",
        lambda shape: count_text(shape.first.tokens),
        lambda shape: float(shape.first.tokens),
        is_result=False,
    ),
    Column(
        "seeds",
        "runs that finished, one a seed",
        lambda shape: str(len(shape.seeds)),
        lambda shape: float(len(shape.seeds)),
        is_result=True,
    ),
    _loss("loss", "val_loss", "validation loss, nats per token, mean ± 95 % interval over seeds"),
    _loss(
        "bits/byte",
        "val_bits_per_byte",
        "validation loss, bits per byte of text, mean ± 95 % interval over seeds",
    ),
    _median("tok/s", "tokens_per_second", count_text, "training tokens per second, median"),
    _median(
        "memory",
        "peak_memory_bytes",
        partial(bytes_text, aligned=True),
        "peak memory of training, median",
    ),
)


def shown_columns(shapes: Sequence[Shape]) -> list[Column]:
    """The columns that have a value for at least one shape."""
    return [
        column for column in COLUMNS if any(column.value(shape) is not None for shape in shapes)
    ]
