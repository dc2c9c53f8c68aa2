"""The verdicts at equal latency in sentences."""

from collections.abc import Sequence

from mobilellm.report.caution import shorten_list
from mobilellm.report.depth_ranges import depth_ranges
from mobilellm.report.equal_latency import (
    ALSO_BETTER,
    NO_DIFFERENCE,
    SLOWER,
    EqualLatency,
    LatencyLevel,
    LatencyPair,
    best_of,
)
from mobilellm.report.findings import UNIT, sharing_pairs
from mobilellm.report.interval_text import interval_text, size_text
from mobilellm.report.latency import BUSY, Latencies
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.statistics import BETTER, EQUIVALENT, NOT_DISTINGUISHABLE, WORSE
from mobilellm.units import plural

WORDS = {
    BETTER: "better than",
    WORSE: "worse than",
    EQUIVALENT: "equivalent to",
    NOT_DISTINGUISHABLE: "not distinguishable from",
}


def latency_sentences(
    groups: Sequence[RunGroup], equal: EqualLatency, latencies: Latencies, metric: str | None
) -> tuple[str, ...]:
    """Return the verdicts at equal latency: deep against wide, and shared blocks against others.

    Args:
        groups: all configurations, with their latencies.
        equal: the verdicts.
        latencies: how they were measured, or why not.
        metric: the loss that is compared; None: there is no verdict.
    """
    ranges = [] if metric is None else depth_ranges(groups, metric)
    shared = [] if metric is None else sharing_pairs(groups)
    if metric is None or not (ranges or shared or equal.levels):
        return ()
    if latencies.conditions is None:
        return (f"At equal latency: no verdict, decode latency was not measured: "
                f"{latencies.reason}.",)  # fmt: skip
    from_device = latencies.conditions.file is not None
    stated = (str(latencies),) if from_device or latencies.processor_share < BUSY else ()
    if equal.levels:
        levels = tuple(_level_sentence(level, metric) for level in equal.levels)
        return (*levels, *stated) if from_device else levels
    sentences = []
    for start, two in (("At", ranges), ("Sharing at", shared)):
        for first, second in two:
            found = equal.pair(first.label, second.label)
            if found is not None:
                text = pair_sentence(found, metric, from_device=from_device)
                sentences.append(f"{start} equal latency: {text}.")
    return (*sentences, *_others(equal.pairs, len(sentences)), *stated)


def place_of_latency(findings: Sequence[str]) -> int:
    """Return where the verdicts at equal latency belong: behind those of which they are the second.

    These are the verdicts on deep against wide or, without any, on shared blocks.
    """
    for start in ("Deepest against", "Sharing:"):
        places = [n for n, text in enumerate(findings, start=1) if text.startswith(start)]
        if places:
            return places[-1]
    return 1


def pair_sentence(found: LatencyPair, metric: str, *, from_device: bool = False) -> str:
    """Return what a pair says about equal latency, without a full stop.

    Args:
        found: the pair.
        metric: the loss that is compared.
        from_device: whether the times are results of another device.
    """
    pair, ratio = found.pair, found.ratio
    first, second = pair.first, pair.second
    if found.verdict == NO_DIFFERENCE:
        if ratio.is_equal:
            return f"the same, since {first} takes {ratio} times as long per token as {second}"
        if ratio.mean < 1:
            first, second, ratio = second, first, ratio.inverse()
        return f"not decided; {first} takes {ratio} times as long per token as {second}"
    takes = f"takes {ratio} times as long per token as {second}"
    if found.verdict == ALSO_BETTER:
        return f"{first} is better too, since it {takes}"
    difference = "" if pair.difference is None else f" by {size_text(pair.difference)}"
    better = f"not decided; {first} is better{difference} {UNIT[metric]}, but {takes}"
    if found.verdict != SLOWER:
        remedy = "give run.py more --rounds" if from_device else "compare --latency measures longer"
        return f"{better}, too uncertain a ratio; {remedy}"
    if from_device:
        return f"{better}. Shapes of equal latency on this device would decide"
    return (
        f"{better}. Shapes of equal latency would decide: experiment=matched_latency "
        f"model.budget={found.slower_ms:.2g}"
    )


def _level_sentence(level: LatencyLevel, metric: str) -> str:
    best, verdicts = best_of(level)
    against = [
        f"{WORDS.get(verdict, 'without a verdict against')} {shorten_list(labels)}"
        for verdict, labels in verdicts.items()
    ]
    return (
        f"At {level.ms:.3g} ms per token (interpolated between sizes): lowest loss with {best} "
        f"({interval_text(level.losses[best])} {UNIT[metric]}), {', '.join(against)}."
    )


def _others(pairs: Sequence[LatencyPair], shown: int) -> tuple[str, ...]:
    """How many of all pairs of different depth are decided."""
    if len(pairs) <= shown:
        return ()
    decided = sum(found.verdict == ALSO_BETTER for found in pairs)
    slower = sum(found.verdict == SLOWER for found in pairs)
    return (
        f"Of {plural(len(pairs), 'pair')} of different depth, {decided} "
        f"{'is' if decided == 1 else 'are'} decided at equal latency too; in {slower} the model "
        "with the lower loss is slower.",
    )
