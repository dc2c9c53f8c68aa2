"""The findings in sentences: deep against wide, the lowest loss, and how reliable it is."""

from collections.abc import Sequence
from dataclasses import replace

from mobilellm.report.caution import shorten_list
from mobilellm.report.comparability import comparable_subsets, total_tokens
from mobilellm.report.depth_ranges import depth_ranges, treatment
from mobilellm.report.interval_text import interval_text, signed_text, size_text
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.rungs import Rung
from mobilellm.report.statistics import (
    BETTER,
    EQUIVALENT,
    MINIMUM_SEEDS,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.units import count_text, join_names, plural

UNIT = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}

NO_METRIC = (
    "No verdict: the runs use different tokenizers, so that nats per token are not comparable, and "
    "not all of them have bits per byte."
)

ENOUGH_TOKENS_PER_PARAMETER = 20
"""Runs with fewer training tokens per body parameter count as short. Source: Hoffmann et al. 2022,
arXiv:2203.15556, table 3."""


def findings(
    groups: Sequence[RunGroup],
    pairs: Sequence[Pair],
    metric: str | None,
    baseline: str | None = None,
    rungs: Sequence[Rung] = (),
) -> tuple[str, ...]:
    """Return the findings in sentences, the main result first; there is at least one.

    Args:
        groups: all configurations.
        pairs: every pair, or every pair with the baseline.
        metric: the loss that is compared, `val_loss` or `val_bits_per_byte`; None: no comparison.
        baseline: label of the configuration with which all others are compared.
        rungs: the sizes of a ladder, within which configurations are compared.
    """
    if metric is None:
        return (NO_METRIC,)
    by_names = {(pair.first, pair.second): pair for pair in pairs}
    by_names |= {(pair.second, pair.first): pair.swapped() for pair in pairs}
    short = short_runs(groups)
    end = (short,) if short else ()
    if len(groups) == 1:
        loss = interval_text(groups[0].interval(metric))
        return (
            f"Only one configuration, {groups[0].label}: {loss} {UNIT[metric]}; there is nothing "
            "to compare.",
            *end,
        )
    if baseline is not None:
        return (_against_baseline(groups, by_names, metric, baseline), *end)
    if rungs:
        against = [
            sentence
            for rung in rungs
            for sentence in _deep_against_wide(rung.groups, by_names, metric, f" at {rung.name}")
        ]
        return (*against, _lowest_of_sizes(rungs, metric), *end)
    found: list[str] = []
    alone: list[str] = []
    for subset in comparable_subsets(groups):
        if len(subset) < 2:
            alone += [group.label for group in subset]
            continue
        found += _deep_against_wide(subset, by_names, metric)
        found += [*_sharing(subset, by_names, metric), _lowest(subset, by_names, metric)]
    if alone:
        found.append(_not_compared(alone, pairs, len(groups)))
    return (*found, *end)


def _not_compared(alone: Sequence[str], pairs: Sequence[Pair], number: int) -> str:
    reasons = sorted({pair.reason for pair in pairs if {pair.first, pair.second} & {*alone}} - {""})
    why = join_names(reasons, "or")
    if len(alone) == number:
        return f"No verdict: no two of the {number} configurations are comparable ({why})."
    return f"Not comparable with any other configuration: {shorten_list(alone)} ({why})."


def _against_baseline(
    groups: Sequence[RunGroup], by_names: dict[tuple[str, str], Pair], metric: str, baseline: str
) -> str:
    labels = [group.label for group in groups if group.label != baseline]
    loss = next(group for group in groups if group.label == baseline).interval(metric)
    parts = [
        f"{word}: {shorten_list(names)}"
        for verdict, word in (
            (BETTER, "better"),
            (WORSE, "worse"),
            (EQUIVALENT, "equivalent"),
            (NOT_DISTINGUISHABLE, "not distinguishable"),
            (TOO_FEW_SEEDS, "without a verdict"),
            (NOT_COMPARABLE, "not comparable"),
        )
        if (names := [label for label in labels if by_names[label, baseline].verdict == verdict])
    ]
    return (
        f"Against the baseline {baseline} ({interval_text(loss)} {UNIT[metric]}): "
        f"{'; '.join(parts)}."
    )


def verdict_sentence(pair: Pair, metric: str) -> str:
    """Return the verdict: `24×64 is better than 2×232 by 0.050 ± 0.020 nats per token`."""
    unit = UNIT[metric]
    if pair.verdict == NOT_COMPARABLE:
        return f"{pair.first} and {pair.second} are not comparable ({pair.reason})"
    if pair.verdict == TOO_FEW_SEEDS or pair.difference is None:
        return (
            f"{pair.first} against {pair.second}: no verdict with "
            f"{plural(len(pair.seeds), 'common seed')}; at least {MINIMUM_SEEDS} are needed"
        )
    if pair.verdict == EQUIVALENT:
        return (
            f"{pair.first} and {pair.second} are equivalent within {pair.margin:g} {unit} "
            f"(difference {signed_text(pair.difference)})"
        )
    if pair.verdict == NOT_DISTINGUISHABLE:
        return (
            f"{pair.first} and {pair.second} are not distinguishable "
            f"(difference {signed_text(pair.difference)} {unit})"
        )
    return (
        f"{pair.first} is {pair.verdict} than {pair.second} by {size_text(pair.difference)} {unit}"
    )


def short_runs(groups: Sequence[RunGroup]) -> str | None:
    """Return a sentence that says how short the runs are; None if they are not short."""
    runs = [run for group in groups for run in group.runs]
    trained = [(tokens, run) for run in runs if (tokens := total_tokens(run)) is not None]
    ratios = [tokens / run.parameters["body"] for tokens, run in trained]
    # Runs end after a whole step, and parameters are not exactly those of the budget.
    if not ratios or round(min(ratios)) >= ENOUGH_TOKENS_PER_PARAMETER:
        return None
    tokens = sorted({tokens for tokens, _ in trained})
    texts = list(dict.fromkeys(map(count_text, tokens)))
    many = join_names(texts) if len(texts) < 4 else f"{texts[0]} to {texts[-1]}"
    return (
        f"The runs are too short to settle the question: {many} training tokens are "
        f"{min(ratios):.2g} per body parameter, while about {ENOUGH_TOKENS_PER_PARAMETER} are "
        "usual and MobileLLM was trained on thousands. The ranking can change with longer "
        "training."
    )


def _deep_against_wide(
    groups: Sequence[RunGroup],
    by_names: dict[tuple[str, str], Pair],
    metric: str,
    size: str = "",
) -> list[str]:
    """One sentence per budget that has configurations of different depths.

    Args:
        groups: of one size of a ladder, or all.
        by_names: the verdict of each pair of labels.
        metric: the loss that is compared.
        size: ` at 50.0k body parameters`, if they are of one size of a ladder.
    """
    sentences = []
    ranges = depth_ranges(groups, metric)
    for deepest, widest in ranges:
        text = verdict_sentence(by_names[deepest.label, widest.label], metric)
        body = count_text(widest.first.parameters["body"])
        where = size or (f" at {body} body parameters" if len(ranges) > 1 else "")
        sentences.append(f"Deepest against widest{where}: {text}.")
    return sentences


def _sharing(
    groups: Sequence[RunGroup], by_names: dict[tuple[str, str], Pair], metric: str
) -> list[str]:
    """One sentence per shared model whose counterpart without sharing is in the comparison."""
    return [
        f"Sharing: {verdict_sentence(by_names[group.label, counterpart.label], metric)}, "
        f"with the same stored blocks and {_flops_ratio(group, counterpart):.2g} times the FLOPs."
        for group, counterpart in sharing_pairs(groups)
    ]


def sharing_pairs(groups: Sequence[RunGroup]) -> list[tuple[RunGroup, RunGroup]]:
    """Return each shared model with its counterpart without sharing, if that is in `groups`."""
    counterparts = {_without_sharing(group): group for group in groups if not group.is_shared}
    return [
        (group, counterparts[key])
        for group in groups
        if group.is_shared and (key := _without_sharing(group)) in counterparts
    ]


def _without_sharing(group: RunGroup) -> str:
    """A key that is equal for a shared model and its counterpart without sharing."""
    model = replace(group.model, block_repeats=1, layer_sharing="immediate", share_kv="own")
    return f"{model} {treatment(group)}"


def _flops_ratio(group: RunGroup, counterpart: RunGroup) -> float:
    return group.first.flops_per_token["training"] / counterpart.first.flops_per_token["training"]


def _lowest(groups: Sequence[RunGroup], by_names: dict[tuple[str, str], Pair], metric: str) -> str:
    """The lowest mean loss, and the verdicts against all other configurations."""
    means = {group.label: found for group in groups if (found := group.interval(metric))}
    best = lowest_label(groups, metric)
    parts = []
    for verdict, text in (
        (BETTER, "better than"),
        (WORSE, "worse than"),
        (EQUIVALENT, "equivalent to"),
        (NOT_DISTINGUISHABLE, "not distinguishable from"),
        (TOO_FEW_SEEDS, "without a verdict against"),
    ):
        labels = [label for label in means if label != best]
        labels = [label for label in labels if by_names[best, label].verdict == verdict]
        if labels:
            parts.append(f"{text} {_named(labels, len(means) - 1)}")
    return f"Lowest loss: {best} ({interval_text(means[best])} {UNIT[metric]}), {', '.join(parts)}."


def _lowest_of_sizes(rungs: Sequence[Rung], metric: str) -> str:
    """The configuration with the lowest mean loss of each size of a ladder."""
    texts = []
    for rung in rungs:
        means = {group.label: found for group in rung.groups if (found := group.interval(metric))}
        best = lowest_label(rung.groups, metric)
        texts.append(f"{best} at {rung.name} ({interval_text(means[best])})")
    return f"Lowest loss of each size, in {UNIT[metric]}: {'; '.join(texts)}."


def lowest_label(groups: Sequence[RunGroup], metric: str) -> str:
    """Return the label of the configuration with the lowest mean loss."""
    means = {group.label: found.mean for group in groups if (found := group.interval(metric))}
    return min(means, key=lambda label: means[label])


def _named(labels: list[str], number: int) -> str:
    """`all 5 others`, `2×208 and 4×160`, or `5 of the 8 others`."""
    if len(labels) == number > 1:
        return f"all {number} others"
    return join_names(labels) if len(labels) < 4 else f"{len(labels)} of the {number} others"


def question(groups: Sequence[RunGroup], metric: str | None) -> str:
    """Return the question that a comparison of these configurations can answer."""
    has_range = bool(depth_ranges(groups, metric or "val_loss"))
    is_shared = any(group.is_shared for group in groups)
    if not has_range:
        shared = "What is the effect of applying blocks more than once?"
        return shared if is_shared else "Which configuration reaches the lowest loss?"
    text = (
        "At the same budget, does a deep, thin model reach a lower loss than a shallow, wide one?"
    )
    return f"{text} What is the effect of applying blocks more than once?" if is_shared else text
