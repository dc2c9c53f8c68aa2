"""The outcome in words: deep against wide, the best shape, and how far to trust it."""

from collections import defaultdict
from collections.abc import Sequence

from mobilellm.report.budgets import budget_groups
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import (
    BETTER,
    MINIMUM_SEEDS,
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    WORSE,
    Pair,
)
from mobilellm.report.units import count_text, interval_text, listed, plural, signed_text, size_text

UNIT = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}

NO_METRIC = (
    "No verdict: the runs differ in tokenizer or validation text, so that nats per token do not "
    "compare, and not all of them have bits per byte."
)

ENOUGH_TOKENS_PER_PARAMETER = 20
"""Below this a run is short. Source: Hoffmann et al. 2022, arXiv:2203.15556, table 3."""


def findings(shapes: Sequence[Shape], pairs: Sequence[Pair], metric: str | None) -> tuple[str, ...]:
    """Sentences, the answer first; at least one."""
    if metric is None:
        return (NO_METRIC,)
    by_names = {(pair.first, pair.second): pair for pair in pairs}
    by_names |= {(pair.second, pair.first): pair.turned() for pair in pairs}
    if len(shapes) == 1:
        loss = interval_text(shapes[0].interval(metric))
        found = [f"Only one shape, {shapes[0].label}: {loss} {UNIT[metric]}; nothing to compare."]
    else:
        found = [*_deep_against_wide(shapes, by_names, metric), *_sharing(shapes, by_names, metric)]
        found.append(_lowest(shapes, by_names, metric))
    short = short_runs(shapes)
    return (*found, short) if short else tuple(found)


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
    ratios = [run.tokens / run.parameters["body"] for shape in shapes for run in shape.runs]
    if min(ratios) >= ENOUGH_TOKENS_PER_PARAMETER:
        return None
    tokens = {count_text(run.tokens) for shape in shapes for run in shape.runs}
    many = listed(sorted(tokens)) if len(tokens) < 4 else f"{min(tokens)} to {max(tokens)}"
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
        for group in _kinds(budget)
        if (ends := deepest_and_widest(group, metric))
    ]
    for group, (deepest, widest) in ranges:
        text = sentence(by_names[deepest.label, widest.label], metric)
        body = count_text(group[0].first.parameters["body"])
        where = f" at {body} body parameters" if len(ranges) > 1 else ""
        sentences.append(f"Deepest against widest{where}: {text}.")
    return sentences


def _kinds(shapes: Sequence[Shape]) -> list[list[Shape]]:
    """Shapes that agree in what changes a block's parts, so that depth and width are compared."""
    kinds: dict[tuple[str | bool, ...], list[Shape]] = defaultdict(list)
    for shape in shapes:
        model = shape.model
        kinds[model.feed_forward, model.tie_word_embeddings, model.qk_norm].append(shape)
    return list(kinds.values())


def _sharing(
    shapes: Sequence[Shape], by_names: dict[tuple[str, str], Pair], metric: str
) -> list[str]:
    """One sentence for each shared shape that has its twin without sharing beside it."""
    twins = {_stored_blocks(shape): shape for shape in shapes if not shape.is_shared}
    sentences = []
    for shape in shapes:
        twin = twins.get(_stored_blocks(shape))
        if shape.is_shared and twin:
            sentences.append(
                f"Sharing: {sentence(by_names[shape.label, twin.label], metric)}, with the same "
                f"stored blocks and {_times(shape, twin):.2g} times the FLOPs."
            )
    return sentences


def _stored_blocks(shape: Shape) -> tuple[int, int, int]:
    return shape.model.num_blocks, shape.model.hidden_size, shape.first.parameters["body"]


def _times(shape: Shape, twin: Shape) -> float:
    return shape.first.flops_per_token["training"] / twin.first.flops_per_token["training"]


def _lowest(shapes: Sequence[Shape], by_names: dict[tuple[str, str], Pair], metric: str) -> str:
    """The lowest mean loss, and from which others it can be told apart."""
    means = {shape.label: found for shape in shapes if (found := shape.interval(metric))}
    best = min(means, key=lambda label: means[label].mean)
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


def _named(labels: list[str], number: int) -> str:
    """`all 5 others`, `2×208 and 4×160`, or `5 of the 8 others`."""
    if len(labels) == number > 1:
        return f"all {number} others"
    return listed(labels) if len(labels) < 4 else f"{len(labels)} of the {number} others"


def question(shapes: Sequence[Shape], metric: str | None) -> str:
    """What the comparison asks, judged by the shapes in it."""
    groups = [group for budget in budget_groups(shapes) for group in _kinds(budget)]
    has_range = any(deepest_and_widest(group, metric or "val_loss") for group in groups)
    is_shared = any(shape.is_shared for shape in shapes)
    if not has_range:
        shared = "What does running blocks more than once bring?"
        return shared if is_shared else "Which of these shapes reaches the lowest loss?"
    text = "At one budget, does a deep and thin model learn more than a wide and shallow one?"
    return f"{text} And what does running blocks more than once bring?" if is_shared else text
