"""The findings in sentences: deep against wide, the lowest loss, and how reliable it is."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from mobilellm.report.budgets import split_by_budget
from mobilellm.report.caution import shorten_list
from mobilellm.report.comparability import comparable_subsets, total_tokens
from mobilellm.report.interval_text import interval_text, signed_text, size_text
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import compression_text, distillation_text
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
) -> tuple[str, ...]:
    """Return the findings in sentences, the main result first; there is at least one.

    Args:
        groups: all configurations.
        pairs: every pair, or every pair with the baseline.
        metric: the loss that is compared, `val_loss` or `val_bits_per_byte`; None: no comparison.
        baseline: label of the configuration with which all others are compared.
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


def deepest_and_widest(groups: Sequence[RunGroup], metric: str) -> tuple[RunGroup, RunGroup] | None:
    """Return the deepest and the widest configuration without sharing.

    If several are equally deep or wide, for example with different learning rates, the one with the
    lowest loss is taken.

    Returns:
        None if the deepest configuration is not both deeper and narrower than the widest one.
    """
    plain = [group for group in groups if not group.is_shared] or list(groups)
    ranked = [(group, interval.mean) for group in plain if (interval := group.interval(metric))]
    if len(ranked) < 2:
        return None
    deepest, _ = max(ranked, key=lambda item: (item[0].model.num_layers, -item[1]))
    widest, _ = max(ranked, key=lambda item: (item[0].model.hidden_size, -item[1]))
    is_range = (
        deepest.model.num_layers > widest.model.num_layers
        and deepest.model.hidden_size < widest.model.hidden_size
    )
    return (deepest, widest) if is_range else None


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
    if not ratios or min(ratios) >= ENOUGH_TOKENS_PER_PARAMETER:
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
    groups: Sequence[RunGroup], by_names: dict[tuple[str, str], Pair], metric: str
) -> list[str]:
    """One sentence per budget that has configurations of different depths."""
    sentences = []
    ranges = [
        (subset, ends)
        for budget in split_by_budget(groups)
        for subset in group_by_kind(budget)
        if (ends := deepest_and_widest(subset, metric))
    ]
    for subset, (deepest, widest) in ranges:
        text = verdict_sentence(by_names[deepest.label, widest.label], metric)
        body = count_text(subset[0].first.parameters["body"])
        where = f" at {body} body parameters" if len(ranges) > 1 else ""
        sentences.append(f"Deepest against widest{where}: {text}.")
    return sentences


def group_by_kind(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    """Divide configurations into subsets that mainly differ in depth and width.

    Within a subset, the types of the blocks, compression and distillation are equal.
    """
    found: dict[tuple[str | bool, ...], list[RunGroup]] = defaultdict(list)
    for group in groups:
        model, treatment = group.model, _treatment(group)
        found[model.feed_forward, model.tie_word_embeddings, model.qk_norm, *treatment].append(
            group
        )
    return list(found.values())


def _treatment(group: RunGroup) -> tuple[str, str]:
    return compression_text(group.first), distillation_text(group.first)


def _sharing(
    groups: Sequence[RunGroup], by_names: dict[tuple[str, str], Pair], metric: str
) -> list[str]:
    """One sentence per shared model whose counterpart without sharing is in the comparison."""
    counterparts = {_without_sharing(group): group for group in groups if not group.is_shared}
    sentences = []
    for group in groups:
        counterpart = counterparts.get(_without_sharing(group))
        if group.is_shared and counterpart:
            sentences.append(
                f"Sharing: {verdict_sentence(by_names[group.label, counterpart.label], metric)}, "
                f"with the same stored blocks and {_flops_ratio(group, counterpart):.2g} times the "
                "FLOPs."
            )
    return sentences


def _without_sharing(group: RunGroup) -> str:
    """A key that is equal for a shared model and its counterpart without sharing."""
    model = replace(group.model, block_repeats=1, layer_sharing="immediate", share_kv="own")
    return f"{model} {_treatment(group)}"


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
    subsets = [subset for budget in split_by_budget(groups) for subset in group_by_kind(budget)]
    has_range = any(deepest_and_widest(subset, metric or "val_loss") for subset in subsets)
    is_shared = any(group.is_shared for group in groups)
    if not has_range:
        shared = "What is the effect of applying blocks more than once?"
        return shared if is_shared else "Which configuration reaches the lowest loss?"
    text = (
        "At the same budget, does a deep, thin model reach a lower loss than a shallow, wide one?"
    )
    return f"{text} What is the effect of applying blocks more than once?" if is_shared else text
