"""The outcome in words: deep against wide, the best shape, and how far to trust it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from mobilellm.report.arms import compression_text, distillation_text
from mobilellm.report.budgets import budget_groups
from mobilellm.report.caution import some
from mobilellm.report.comparability import comparable_groups, total_tokens
from mobilellm.report.interval_text import interval_text, signed_text, size_text
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import (
    BETTER,
    MINIMUM_SEEDS,
    NOT_COMPARABLE,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.units import count_text, listed, plural

UNIT = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}

NO_METRIC = (
    "No verdict: the runs differ in tokenizer, so that nats per token do not compare, and not all "
    "of them have bits per byte."
)

ENOUGH_TOKENS_PER_PARAMETER = 20
"""Below this a run is short. Source: Hoffmann et al. 2022, arXiv:2203.15556, table 3."""


def findings(
    shapes: Sequence[Shape],
    pairs: Sequence[Pair],
    metric: str | None,
    baseline: str | None = None,
) -> tuple[str, ...]:
    """Sentences, the answer first; at least one.

    Args:
        shapes: all of them.
        pairs: every pair, or every pair with the baseline.
        metric: the loss that is compared.
        baseline: label of the shape that all others are compared with.
    """
    if metric is None:
        return (NO_METRIC,)
    by_names = {(pair.first, pair.second): pair for pair in pairs}
    by_names |= {(pair.second, pair.first): pair.turned() for pair in pairs}
    short = short_runs(shapes)
    end = (short,) if short else ()
    if len(shapes) == 1:
        loss = interval_text(shapes[0].interval(metric))
        return (
            f"Only one shape, {shapes[0].label}: {loss} {UNIT[metric]}; nothing to compare.", *end
        )  # fmt: skip
    if baseline is not None:
        return (_against_baseline(shapes, by_names, metric, baseline), *end)
    found: list[str] = []
    alone: list[str] = []
    for group in comparable_groups(shapes):
        if len(group) < 2:
            alone += [shape.label for shape in group]
            continue
        found += _deep_against_wide(group, by_names, metric)
        found += [*_sharing(group, by_names, metric), _lowest(group, by_names, metric)]
    if alone:
        found.append(_not_compared(alone, pairs, len(shapes)))
    return (*found, *end)


def _not_compared(alone: Sequence[str], pairs: Sequence[Pair], number: int) -> str:
    reasons = sorted({pair.reason for pair in pairs if {pair.first, pair.second} & {*alone}} - {""})
    why = listed(reasons, "or")
    if len(alone) == number:
        return f"No verdict: no two of the {number} shapes can be compared ({why})."
    return f"Not compared with any other shape: {some(alone)} ({why})."


def _against_baseline(
    shapes: Sequence[Shape], by_names: dict[tuple[str, str], Pair], metric: str, baseline: str
) -> str:
    labels = [shape.label for shape in shapes if shape.label != baseline]
    loss = next(shape for shape in shapes if shape.label == baseline).interval(metric)
    parts = [
        f"{word}: {some(names)}"
        for verdict, word in (
            (BETTER, "better"),
            (WORSE, "worse"),
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


def deepest_and_widest(shapes: Sequence[Shape], metric: str) -> tuple[Shape, Shape] | None:
    """The ends of the range among shapes without sharing; None where no shape is both deeper and
    narrower than another.

    Of equally deep shapes (another learning rate, say) the one with the lowest loss stands for all.
    """
    plain = [shape for shape in shapes if not shape.is_shared] or list(shapes)
    ranked = [(shape, interval.mean) for shape in plain if (interval := shape.interval(metric))]
    if len(ranked) < 2:
        return None
    deepest, _ = max(ranked, key=lambda item: (item[0].model.num_layers, -item[1]))
    widest, _ = max(ranked, key=lambda item: (item[0].model.hidden_size, -item[1]))
    is_range = (
        deepest.model.num_layers > widest.model.num_layers
        and deepest.model.hidden_size < widest.model.hidden_size
    )
    return (deepest, widest) if is_range else None


def sentence(pair: Pair, metric: str) -> str:
    """`24×64 is better than 2×232 by 0.050 ± 0.020 nats per token`."""
    unit = UNIT[metric]
    if pair.verdict == NOT_COMPARABLE:
        return f"{pair.first} and {pair.second} cannot be compared ({pair.reason})"
    if pair.verdict == TOO_FEW_SEEDS or pair.difference is None:
        return (
            f"{pair.first} against {pair.second}: no verdict from "
            f"{plural(len(pair.seeds), 'common seed')}, at least {MINIMUM_SEEDS} are needed"
        )
    if pair.verdict == NOT_DISTINGUISHABLE:
        return (
            f"{pair.first} and {pair.second} are not distinguishable "
            f"(difference {signed_text(pair.difference)} {unit})"
        )
    return (
        f"{pair.first} is {pair.verdict} than {pair.second} by {size_text(pair.difference)} {unit}"
    )


def short_runs(shapes: Sequence[Shape]) -> str | None:
    """The plain statement that the runs are short, or None where they are not."""
    runs = [run for shape in shapes for run in shape.runs]
    trained = [(tokens, run) for run in runs if (tokens := total_tokens(run)) is not None]
    ratios = [tokens / run.parameters["body"] for tokens, run in trained]
    if not ratios or min(ratios) >= ENOUGH_TOKENS_PER_PARAMETER:
        return None
    tokens = sorted({tokens for tokens, _ in trained})
    texts = list(dict.fromkeys(map(count_text, tokens)))
    many = listed(texts) if len(texts) < 4 else f"{texts[0]} to {texts[-1]}"
    return (
        f"So few tokens do not settle the question: {many} training tokens are "
        f"{min(ratios):.2g} per body parameter, where about {ENOUGH_TOKENS_PER_PARAMETER} are "
        "usual for a trained model and MobileLLM used thousands. The order of the shapes can "
        "change with longer training."
    )


def _deep_against_wide(
    shapes: Sequence[Shape], by_names: dict[tuple[str, str], Pair], metric: str
) -> list[str]:
    """One sentence for each budget at which there is a range of depths."""
    sentences = []
    ranges = [
        (group, ends)
        for budget in budget_groups(shapes)
        for group in kinds(budget)
        if (ends := deepest_and_widest(group, metric))
    ]
    for group, (deepest, widest) in ranges:
        text = sentence(by_names[deepest.label, widest.label], metric)
        body = count_text(group[0].first.parameters["body"])
        where = f" at {body} body parameters" if len(ranges) > 1 else ""
        sentences.append(f"Deepest against widest{where}: {text}.")
    return sentences


def kinds(shapes: Sequence[Shape]) -> list[list[Shape]]:
    """Shapes that agree in what changes a block's parts and in what was done to the model, so that
    depth and width are compared.
    """
    found: dict[tuple[str | bool, ...], list[Shape]] = defaultdict(list)
    for shape in shapes:
        model, done = shape.model, _done(shape)
        found[model.feed_forward, model.tie_word_embeddings, model.qk_norm, *done].append(shape)
    return list(found.values())


def _done(shape: Shape) -> tuple[str, str]:
    return compression_text(shape.first), distillation_text(shape.first)


def _sharing(
    shapes: Sequence[Shape], by_names: dict[tuple[str, str], Pair], metric: str
) -> list[str]:
    """One sentence for each shared shape that has its twin without sharing beside it."""
    twins = {_without_sharing(shape): shape for shape in shapes if not shape.is_shared}
    sentences = []
    for shape in shapes:
        twin = twins.get(_without_sharing(shape))
        if shape.is_shared and twin:
            sentences.append(
                f"Sharing: {sentence(by_names[shape.label, twin.label], metric)}, with the same "
                f"stored blocks and {_times(shape, twin):.2g} times the FLOPs."
            )
    return sentences


def _without_sharing(shape: Shape) -> str:
    """All that a shared shape and its twin have in common."""
    model = replace(shape.model, block_repeats=1, layer_sharing="immediate", share_kv="own")
    return f"{model} {_done(shape)}"


def _times(shape: Shape, twin: Shape) -> float:
    return shape.first.flops_per_token["training"] / twin.first.flops_per_token["training"]


def _lowest(shapes: Sequence[Shape], by_names: dict[tuple[str, str], Pair], metric: str) -> str:
    """The lowest mean loss, and from which others it can be told apart."""
    means = {shape.label: found for shape in shapes if (found := shape.interval(metric))}
    best = lowest_label(shapes, metric)
    parts = []
    for verdict, text in (
        (BETTER, "better than"),
        (WORSE, "worse than"),
        (NOT_DISTINGUISHABLE, "not distinguishable from"),
        (TOO_FEW_SEEDS, "without a verdict against"),
    ):
        labels = [label for label in means if label != best]
        labels = [label for label in labels if by_names[best, label].verdict == verdict]
        if labels:
            parts.append(f"{text} {_named(labels, len(means) - 1)}")
    return f"Lowest loss: {best} ({interval_text(means[best])} {UNIT[metric]}), {', '.join(parts)}."


def lowest_label(shapes: Sequence[Shape], metric: str) -> str:
    """The shape with the lowest mean loss."""
    means = {shape.label: found.mean for shape in shapes if (found := shape.interval(metric))}
    return min(means, key=lambda label: means[label])


def _named(labels: list[str], number: int) -> str:
    """`all 5 others`, `2×208 and 4×160`, or `5 of the 8 others`."""
    if len(labels) == number > 1:
        return f"all {number} others"
    return listed(labels) if len(labels) < 4 else f"{len(labels)} of the {number} others"


def question(shapes: Sequence[Shape], metric: str | None) -> str:
    """What the comparison asks, judged by the shapes in it."""
    groups = [group for budget in budget_groups(shapes) for group in kinds(budget)]
    has_range = any(deepest_and_widest(group, metric or "val_loss") for group in groups)
    is_shared = any(shape.is_shared for shape in shapes)
    if not has_range:
        shared = "What does running blocks more than once bring?"
        return shared if is_shared else "Which of these shapes reaches the lowest loss?"
    text = "At one budget, does a deep and thin model learn more than a wide and shallow one?"
    return f"{text} And what does running blocks more than once bring?" if is_shared else text
