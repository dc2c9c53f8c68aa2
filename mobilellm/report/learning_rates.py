"""Cautions about learning rates that were not tuned, or that lie at the edge of those tried.

The best learning rate decreases with width, so that a single rate for all widths favours some of
them. Rates that the recipe rule chose for each shape differ on purpose; they are described.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from mobilellm.report.caution import Caution, labels_by_value, shorten_list
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import parametrization_text
from mobilellm.report.runs import Run
from mobilellm.units import join_names, rate_text

RATE = "optimizer.learning_rate"
STEP = "tokens_per_step"


def rates_tried(run: Run) -> dict[float, float]:
    """Return the validation loss of each learning rate that the probe tried, in ascending order.

    A loss is NaN if it is unknown, for example because the probe diverged.
    """
    entries = run.fact("learning_rates_tried") or []
    tried = {
        float(entry["learning_rate"]): _loss(entry.get("val_loss"))
        for entry in entries
        if isinstance(entry, dict) and entry.get("learning_rate") is not None
    }
    return dict(sorted(tried.items()))


def is_chosen_by_rule(run: Run, setting: str) -> bool:
    """Return whether the recipe rule chose a setting, and no probe replaced its choice.

    Args:
        run: the run.
        setting: `tokens_per_step` or `optimizer.learning_rate`.
    """
    is_probed = setting == RATE and bool(rates_tried(run))
    return setting in (run.fact("chosen_by_rule") or {}) and not is_probed


def rate_cautions(groups: Sequence[RunGroup]) -> Iterator[Caution]:
    """Yield all cautions about learning rates, and notes about those that the recipe rule chose."""
    for text in learning_rate_cautions(groups):
        yield Caution("learning rate", True, text)
    yield from _rule_cautions(groups)


def _rule_cautions(groups: Sequence[RunGroup]) -> Iterator[Caution]:
    """Yield a note about rates that the recipe rule chose, and a caution if it extrapolates."""
    rates = {
        group.label: rate_text(group.first.number("learning_rate"))
        for group in groups
        if is_chosen_by_rule(group.first, RATE)
    }
    if rates and len(groups) > 1:
        who = "all configurations" if len(rates) == len(groups) else shorten_list(list(rates))
        found = (
            f"the learning rate {next(iter(rates.values()))} for {who}"
            if len(set(rates.values())) == 1
            else f"a learning rate for each number of tokens and shape: {labels_by_value(rates)}"
        )
        text = f"the recipe rule chose {found}; rates were not tuned for this comparison"
        yield Caution("learning rate", False, text)
    extrapolated = {
        group.label: join_names(list(outside))
        for group in groups
        if (outside := group.first.fact("rule_extrapolated")) and not rates_tried(group.first)
    }
    if extrapolated:
        text = (
            "the recipe rule was used outside the range that it was fitted on: "
            f"{labels_by_value(extrapolated)}; check its rates with learning_rate_probe=true"
        )
        yield Caution("learning rate", True, text)


def learning_rate_cautions(groups: Sequence[RunGroup]) -> tuple[str, ...]:
    """Return sentences about rates that were not tuned, or that are at the edge of those tried.

    A rate that the recipe rule chose counts as tuned: `rate_cautions` describes it.
    """
    by_model: dict[str, set[float]] = defaultdict(set)
    for group in groups:
        by_model[str(group.model)] |= {
            rate for run in group.runs if (rate := run.number("learning_rate")) is not None
        }
    untried, edges = [], []
    for group in groups:
        chosen = group.first.number("learning_rate")
        tried = sorted(set(rates_tried(group.first)) | by_model[str(group.model)])
        if chosen is None:
            continue
        if len(tried) < 2:
            if not is_chosen_by_rule(group.first, RATE):
                untried.append(group)
        elif not rates_tried(group.first) and not _is_best_of_its_model(group, groups):
            continue
        elif math.isclose(chosen, tried[0]) or math.isclose(chosen, tried[-1]):
            edges.append(f"{group.label} ({rate_text(chosen)} of {_range(tried)})")
    found = []
    if untried and len(groups) > 1:
        found.append(_untried_sentence(untried, groups))
    if edges:
        found.append(
            f"the learning rate is the lowest or highest of those tried: {join_names(edges)}; a "
            "better one may lie outside, so widen learning_rate_probe_factors"
        )
    return tuple(found)


def _untried_sentence(untried: Sequence[RunGroup], groups: Sequence[RunGroup]) -> str:
    who = (
        "any configuration"
        if len(untried) == len(groups)
        else join_names([s.label for s in untried])
    )
    rates = {rate_text(group.first.number("learning_rate")) for group in untried}
    widths = {group.model.hidden_size for group in untried}
    text = f"no other learning rate was tried for {who}"
    is_scaled = all(parametrization_text(group.first) for group in untried)
    if len(rates) == 1 and len(widths) > 1 and not is_scaled:
        text += f": a single rate ({rates.pop()}) for all widths favours some of them"
    return f"{text}; train with learning_rate_probe=true"


def _is_best_of_its_model(group: RunGroup, groups: Sequence[RunGroup]) -> bool:
    """Whether a configuration has the lowest loss among those of the same model."""
    losses = {
        other.label: found.mean
        for other in groups
        if other.model == group.model and (found := other.interval("val_loss"))
    }
    return min(losses, key=lambda label: losses[label]) == group.label


def _range(rates: Sequence[float]) -> str:
    return f"{rate_text(rates[0])}–{rate_text(rates[-1])}"


def _loss(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
