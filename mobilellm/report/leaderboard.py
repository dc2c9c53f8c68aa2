"""The columns of the leaderboard of compressed models, and a sentence about its best row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mobilellm.report.compressed import CompressedModel
from mobilellm.units import bytes_text

_aligned_bytes = partial(bytes_text, aligned=True)


@dataclass(frozen=True)
class LeaderboardColumn:
    """One quantity of a compressed model."""

    name: str
    meaning: str
    """What the column shows, with the unit."""
    text: Callable[[CompressedModel], str]
    """The cell of a model; empty if the value is unknown."""
    value: Callable[[CompressedModel], float | None]
    """The number by which the column is sorted."""


def _number(name: str, field: str, form: Callable[[float], str], meaning: str) -> LeaderboardColumn:
    def value(row: CompressedModel) -> float | None:
        return getattr(row, field)

    def text(row: CompressedModel) -> str:
        found = value(row)
        return "" if found is None else form(found)

    return LeaderboardColumn(name, meaning, text, value)


def _increase(row: CompressedModel) -> float | None:
    return None if row.dense_loss is None or row.is_before else row.loss - row.dense_loss


def _increase_text(row: CompressedModel) -> str:
    increase = _increase(row)
    return "" if increase is None else f"{increase:+.3f}".replace("-", "−")


COLUMNS: tuple[LeaderboardColumn, ...] = (
    LeaderboardColumn(
        "state",
        "dense or given (the model before compression, dense or compressed already), compressed "
        "(without training after compression), or recovered (with training after compression)",
        lambda row: row.kind,
        lambda row: None,
    ),
    _number("on disk", "bytes_on_disk", _aligned_bytes, "bytes of the weight files"),
    _number(
        "ratio",
        "ratio",
        lambda share: f"{share:.2f}",
        "unmasked parameters, relative to those of the dense model",
    ),
    _number("loss", "loss", lambda loss: f"{loss:.3f}", "validation loss, nats per token"),
    LeaderboardColumn(
        "vs. dense",
        "difference from the loss of the dense model on the same text",
        _increase_text,
        _increase,
    ),
    _number(
        "prefill ms", "prefill_ms", lambda time: f"{time:.1f}", "milliseconds to process a prompt"
    ),
    _number(
        "decode ms", "decode_ms_per_token", lambda time: f"{time:.2f}",
        "milliseconds per generated token",
    ),
    _number("memory", "peak_memory_bytes", _aligned_bytes, "peak memory of inference"),
)  # fmt: skip


def leaderboard_sentence(rows: Sequence[CompressedModel]) -> str | None:
    """Return a sentence about the compressed model with the lowest loss; None without models."""
    made = [row for row in rows if not row.is_before]
    if not made:
        return None
    best = next(row for row in made if row.text == made[0].text)
    increase, ratio = _increase_text(best), best.ratio
    kept = "" if ratio is None else f" at {100 * ratio:.3g} % of its parameters"
    against = f", {increase} compared with the dense model{kept}" if increase else ""
    number = sum(row.text == best.text for row in made)
    lowest = (
        "" if number == 1 else f"Lowest loss of the {number} compressed models on the same text: "
    )
    return f"{lowest}{best.label}, {best.loss:.3f} nats per token{against}."
