"""Which configurations are compared as deep against wide."""

from collections import defaultdict
from collections.abc import Sequence

from mobilellm.report.budgets import split_by_budget
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import compression_text, distillation_text


def depth_ranges(groups: Sequence[RunGroup], metric: str) -> list[tuple[RunGroup, RunGroup]]:
    """Return the deepest and the widest configuration of each budget and kind of model.

    Args:
        groups: all configurations.
        metric: the loss, for the choice between equally deep or wide configurations.
    """
    return [
        ends
        for budget in split_by_budget(groups)
        for subset in group_by_kind(budget)
        if (ends := deepest_and_widest(subset, metric))
    ]


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


def group_by_kind(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    """Divide configurations into subsets that mainly differ in depth and width.

    Within a subset, the types of the blocks, compression and distillation are equal.
    """
    found: dict[tuple[str | bool, ...], list[RunGroup]] = defaultdict(list)
    for group in groups:
        model, treated = group.model, treatment(group)
        found[model.feed_forward, model.tie_word_embeddings, model.qk_norm, *treated].append(group)
    return list(found.values())


def treatment(group: RunGroup) -> tuple[str, str]:
    """Compression and distillation of a configuration in words; empty texts without them."""
    return compression_text(group.first), distillation_text(group.first)
