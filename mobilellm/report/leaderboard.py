"""The columns of the table of compressed models, and its outcome in words."""

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
    """With its unit."""
    text: Callable[[CompressedModel], str]
    """Empty where it is not known."""
    value: Callable[[CompressedModel], float | None]
    """What it is sorted by."""


def _number(name: str, field: str, form: Callable[[float], str], meaning: str) -> LeaderboardColumn:
    def value(row: CompressedModel) -> float | None:
        return getattr(row, field)

    def text(row: CompressedModel) -> str:
        found = value(row)
        return "" if found is None else form(found)

    return LeaderboardColumn(name, meaning, text, value)


def _rise(row: CompressedModel) -> float | None:
    return None if row.dense_loss is None or row.is_before else row.loss - row.dense_loss


def _rise_text(row: CompressedModel) -> str:
    rise = _rise(row)
    return "" if rise is None else f"{rise:+.3f}".replace("-", "−")


COLUMNS: tuple[LeaderboardColumn, ...] = (
    LeaderboardColumn(
        "state",
        "dense, given (compressed before), compressed (not trained since), recovered (trained on)",
        lambda row: row.kind,
        lambda row: None,
    ),
    _number("on disk", "bytes_on_disk", _aligned_bytes, "bytes of the weights' files"),
    _number(
        "ratio",
        "ratio",
        lambda share: f"{share:.2f}",
        "parameters that are not masked to zero, as a share of the dense model's",
    ),
    _number("loss", "loss", lambda loss: f"{loss:.3f}", "validation loss, nats per token"),
    LeaderboardColumn(
        "to dense", "loss minus the dense model's on the same text", _rise_text, _rise
    ),
    _number(
        "prefill ms", "prefill_ms", lambda time: f"{time:.1f}", "milliseconds to read a prompt"
    ),
    _number(
        "decode ms", "decode_ms_per_token", lambda time: f"{time:.2f}",
        "milliseconds for each generated token",
    ),
    _number("memory", "peak_memory_bytes", _aligned_bytes, "peak memory of running the model"),
)  # fmt: skip


def leaderboard_sentence(rows: Sequence[CompressedModel]) -> str | None:
    """Which compressed model has the lowest loss; None without any."""
    made = [row for row in rows if not row.is_before]
    if not made:
        return None
    best = next(row for row in made if row.text == made[0].text)
    rise, ratio = _rise_text(best), best.ratio
    kept = "" if ratio is None else f" at {100 * ratio:.3g} % of its parameters"
    against = f", {rise} to the dense model{kept}" if rise else ""
    number = sum(row.text == best.text for row in made)
    lowest = "" if number == 1 else f"Lowest loss of the {number} compressed models on one text: "
    return f"{lowest}{best.label}, {best.loss:.3f} nats per token{against}."
