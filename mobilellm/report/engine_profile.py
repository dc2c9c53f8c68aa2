"""The measurements of a profile of engines as tables of at most 80 columns, and in sentences."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mobilellm.accounting.energy import JOULES_PER_PARAMETER, joules_per_token
from mobilellm.evaluation.engine_profile.results import CaseResult, EngineProfile, median_ratio
from mobilellm.models import ModelConfig
from mobilellm.report.latency import BUSY
from mobilellm.units import MISSING, bytes_text, plural

if TYPE_CHECKING:
    from rich.table import Table

START_HEADS = ("model", "engine", "file", "to arith.", "load", "init", "ratio", "peak")
SPEED_HEADS = ("model", "engine", "prompt", "first", "95 %", "read/s", "token", "95 %", "ratio")


def start_rows(profile: EngineProfile) -> list[tuple[str, ...]]:
    """Size, start and memory of each case: milliseconds, and the ratio to the first model."""
    rows = []
    for result in profile.results:
        case = result.case
        load, init = result.spread("load_ms"), result.spread("init_ms")
        first = _reference(profile, result)
        ratio = median_ratio(result.comparable_ms("start"), first.comparable_ms("start"))
        rows.append(
            (
                case.model, case.setting, bytes_text(case.file_bytes, aligned=True),
                f"{100 * (case.file_bytes / case.expected_bytes - 1):+.2f} %",
                MISSING if load is None else f"{load.median:.0f}",
                MISSING if init is None else f"{init.median:.0f}",
                short_number(ratio), bytes_text(result.peak_memory_bytes, aligned=True),
            )
        )  # fmt: skip
    return rows


def speed_rows(profile: EngineProfile) -> list[tuple[str, ...]]:
    """Times of each case and length of prompt, and decoding as a ratio to the first model."""
    rows = []
    for result in profile.results:
        first = _reference(profile, result)
        for place, length in enumerate(profile.plan.prompt_lengths):
            prefill, decode = result.spread("prefill_ms", place), result.spread("decode_ms", place)
            if prefill is None or decode is None:
                continue
            ratio = median_ratio(
                result.comparable_ms("decode", place), first.comparable_ms("decode", place)
            )
            rows.append(
                (
                    result.case.model, result.case.setting, str(length),
                    short_number(prefill.median), short_number(prefill.p95),
                    short_number(1000 * length / prefill.median),
                    short_number(decode.median), short_number(decode.p95), short_number(ratio),
                )
            )  # fmt: skip
    return rows


def profile_tables(profile: EngineProfile) -> "tuple[Table, Table]":
    """Start and memory; and speed."""
    return plain_table(START_HEADS, start_rows(profile)), plain_table(
        SPEED_HEADS, speed_rows(profile)
    )


def profile_sentences(profile: EngineProfile) -> list[str]:
    """What the columns mean, the conditions, and the energy."""
    plan = profile.plan
    return [
        "load, init: milliseconds to open the file, and to prepare the first run, medians; ratio: "
        "of both together to those of the first model in the same engine. peak: memory of the "
        "process, Python and pages of mapped files included. to arith.: size of the file to that "
        "by arithmetic.",
        f"first: milliseconds from the prompt to the first token; read/s: tokens of the prompt per "
        f"second; token: milliseconds per token decoded after it ({plan.decode_tokens} tokens); "
        "medians with 95th percentiles; ratio: of the time per token to that of the first model.",
        "Ratios are medians of those within rounds; with one thread, of processor times, which "
        "other work on the machine lengthens little.",
        f"{profile.device}, {plural(profile.num_rounds, 'round')} in alternation after a warm-up."
        f"{_busy_text(profile)}",
        *energy_sentences(profile),
    ]


def _busy_text(profile: EngineProfile) -> str:
    """A warning if the machine had other work."""
    shares = [share for one in profile.results if (share := one.processor_share) is not None]
    if not shares or statistics.mean(shares) >= BUSY:
        return ""
    taken = 100 * (1 - statistics.mean(shares))
    return f" Other work took {taken:.0f} % of the time, so the milliseconds are too large."


def energy_sentences(profile: EngineProfile) -> list[str]:
    """The energy per decoded token: measured, or by the paper's rule with its errors."""
    last = len(profile.plan.prompt_lengths) - 1
    measured = [
        f"{result.case.name} {spread.median:.3g} J"
        for result in profile.results
        if (spread := result.spread("decode_joules", last)) is not None
    ]
    if measured:
        return [f"Energy of the machine's processors per decoded token: {', '.join(measured)}."]
    models = {result.case.model: result.case.config for result in profile.results}
    texts = [
        f"{name} {joules_per_token(ModelConfig.from_dict(values)):.3g} J"
        for name, values in models.items()
    ]
    return [
        "This machine shows no energy counter. By the paper's rule, "
        f"{1e9 * JOULES_PER_PARAMETER:g} J per token and billion parameters that run: "
        f"{', '.join(texts)}. It is an order of magnitude: it ignores bits per weight, engine and "
        "device, and the paper's own figure for the battery (0.2 % for 64 tokens of a 7B model) is "
        "2.2 times as high."
    ]


def short_number(value: float) -> str:
    """At least three digits, without an exponent: `0.87`, `12.4`, `1304`."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _reference(profile: EngineProfile, result: CaseResult) -> CaseResult:
    """The first model in the same setting."""
    return next(one for one in profile.results if one.case.setting == result.case.setting)


def plain_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 2
) -> "Table":
    """A table for the terminal, whose first columns are text, and the others numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place < text_columns else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
