"""Finds what makes a comparison unfair, or too weak for a conclusion.

The depth-against-width tables of Liu et al. 2024 (arXiv:2402.14905, tables 11 and 12) have three of
these confounds: unequal body parameters, one learning rate for all widths, and a single seed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mobilellm.models.config import BlockShape, ModelConfig
from mobilellm.report.budget_cautions import budget_cautions
from mobilellm.report.budgets import FLOPS, budgets
from mobilellm.report.caution import MAX_NAMES, Caution, labels_by_value, shorten_list
from mobilellm.report.comparability import (
    CONDITION_SETTINGS,
    EQUAL_TOKENS,
    loss_cautions,
    total_tokens,
)
from mobilellm.report.data_cautions import data_cautions
from mobilellm.report.learning_rates import STEP, is_chosen_by_rule, rate_cautions
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import (
    EXTENDED,
    START,
    compression_text,
    differing_settings,
    distillation_text,
    extension_text,
    setting_text,
    settings,
)
from mobilellm.report.rungs import Rung
from mobilellm.report.runs import Run
from mobilellm.report.statistics import MINIMUM_SEEDS
from mobilellm.units import count_text, join_names, plural

NATS_BELOW_UNIGRAM = 1.0
"""A run that ends less than this below the unigram loss has learned little more than the
frequencies of tokens."""


def cautions(groups: Sequence[RunGroup], rungs: Sequence[Rung] = ()) -> tuple[Caution, ...]:
    """Return all cautions about these configurations, serious ones first.

    Args:
        groups: all configurations.
        rungs: the sizes of a ladder, within which budgets, tokens, steps and seeds are compared.
    """
    blocks = [rung.groups for rung in rungs] or [groups]
    found = [
        *(caution for block in blocks for caution in budget_cautions(block)),
        *(caution for block in blocks for caution in _amounts(block)),
        *data_cautions(groups),
        *loss_cautions(groups),
        *rate_cautions(groups),
        *(caution for block in blocks for caution in _seeds(block)),
        *_near_unigram(groups),
        *_architecture(groups),
        *_settings(groups),
        *_circumstances(groups),
    ]
    return tuple(sorted(found, key=lambda caution: not caution.is_serious))


def _amounts(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about different numbers of training tokens and different batches.

    The tokens of the initial weights are included if they are known.
    """
    runs = [run for group in groups for run in group.runs]
    totals = [total_tokens(run) for run in runs]
    is_known = None not in totals
    tokens = [
        run.tokens if total is None or not is_known else total
        for total, run in zip(totals, runs, strict=True)
    ]
    if max(tokens) > EQUAL_TOKENS * min(tokens):
        amounts = dict(zip((id(run) for run in runs), tokens, strict=True))
        per_group = {
            group.label: count_text(sum(amounts[id(run)] for run in group.runs) / len(group.runs))
            for group in groups
        }
        has_parents = any(run.tokens != amount for run, amount in zip(runs, tokens, strict=True))
        note = " (including those of the initial weights)" if has_parents else ""
        text = f"the numbers of training tokens differ{note}: {labels_by_value(per_group)}"
        [flops] = [budget for budget in budgets(groups) if budget.name == FLOPS]
        is_matched = not has_parents and flops.is_matched
        text += ", at equal FLOPs of training" if is_matched else ""
        yield Caution("tokens", not is_matched, text)
    values = {group.label: count_text(group.first.tokens_per_step) for group in groups}
    if len(set(values.values())) > 1:
        text = f"tokens_per_step differs (in tokens): {labels_by_value(values)}"
        is_chosen = all(is_chosen_by_rule(group.first, STEP) for group in groups)
        if is_chosen:
            text += "; the recipe rule chose it from the number of tokens"
        yield Caution("tokens_per_step", not is_chosen, text)


def _seeds(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about too few seeds, and about seeds that some configurations lack."""
    few = [group.label for group in groups if len(group.seeds) < MINIMUM_SEEDS]
    if few:
        seeds = Counter(seed for group in groups for seed in group.seeds)
        is_hopeless = sum(count > 1 for count in seeds.values()) < MINIMUM_SEEDS
        effect = (
            "there is no verdict on them"
            if is_hopeless
            else "verdicts on them take much larger differences, or are not given"
        )
        names = shorten_list(few)
        text = f"fewer than {MINIMUM_SEEDS} seeds: {names}; {effect}, so train more seeds"
        yield Caution("seeds", True, text)
    common = set.intersection(*(set(group.seeds) for group in groups))
    missing = {group.label: sorted(set(group.seeds) - common) for group in groups}
    if any(missing.values()):
        unpaired = shorten_list(
            [
                f"{label} seed {join_names([str(seed) for seed in seeds])}"
                for label, seeds in missing.items()
                if seeds
            ]
        )
        text = (
            f"seeds that only some configurations have: {unpaired}; pairs are compared by "
            "least squares with an effect of each seed"
        )
        yield Caution("seeds", False, text)


def _near_unigram(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield a caution about runs that end near the unigram loss."""
    near = []
    for group in groups:
        gaps = [
            unigram - run.val_loss
            for run in group.runs
            if (unigram := run.number("unigram_loss")) is not None
        ]
        if gaps and min(gaps) < NATS_BELOW_UNIGRAM:
            side = "below" if min(gaps) >= 0 else "above"
            near.append(f"{group.label} ({abs(min(gaps)):.2f} {side})")
    if near:
        text = (
            f"less than {NATS_BELOW_UNIGRAM:g} nat below the unigram loss: {shorten_list(near)}; "
            "training was too short for a conclusion, increase max_tokens"
        )
        yield Caution("training length", True, text)


def _architecture(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield a caution about architectural differences other than depth and width."""
    differing = []
    for name, trait in _TRAITS:
        values = sorted({trait(block, s.model) for s in groups for block in s.model.block_shapes})
        if len(values) > 1:
            ends = values if len(values) < 4 else [values[0], values[-1]]
            differing.append(
                f"{name} ({join_names(ends) if len(values) < 4 else ' to '.join(ends)})"
            )
    if differing:
        text = f"besides depth and width, the models differ in {join_names(differing)}"
        yield Caution("architecture", False, text)


# Ratios are rounded, since exactly equal ones are rarely possible.
_TRAITS: tuple[tuple[str, Callable[[BlockShape, ModelConfig], str]], ...] = (
    ("feed-forward type", lambda _, model: model.feed_forward),
    ("embeddings", lambda _, model: "tied" if model.tie_word_embeddings else "untied"),
    ("QK-norm", lambda _, model: model.qk_norm),
    ("head size", lambda _, model: str(model.head_dim)),
    (
        "query heads per key-value head",
        lambda block, _: f"{block.num_attention_heads // block.num_key_value_heads}",
    ),
    (
        "ratio of feed-forward width to model width",
        lambda block, model: f"{block.intermediate_size / model.hidden_size:.1f}",
    ),
    ("vocabulary size", lambda _, model: str(model.vocab_size)),
)


def _settings(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about differences in compression, distillation and other settings."""
    for name, read in (("compression", compression_text), ("distillation", distillation_text)):
        values = list(dict.fromkeys(read(group.first) or "none" for group in groups))
        if len(values) > 1:
            yield Caution(name, False, f"{name} differs: {shorten_list(values, noun='kinds')}")
    compressed = [group.label for group in groups if compression_text(group.first)]
    if compressed:
        who = "all configurations" if len(compressed) == len(groups) else shorten_list(compressed)
        text = f"the models were compressed and then trained (recovered) during these runs: {who}"
        yield Caution("compression", False, text)
    rewarmed = [s.label for s in groups if extension_text(s.first) == "re-warmed"]
    if rewarmed:
        text = (
            "continued after the learning rate had decayed, with a second warmup (re-warmed): "
            f"{shorten_list(rewarmed)}; a single run over all tokens has another schedule"
        )
        yield Caution("schedule", len(rewarmed) < len(groups), text)
    flat = [settings(group.first) for group in groups]
    names = [
        name for name in differing_settings(flat) if not name.startswith(_COVERED_BY_OTHER_CAUTIONS)
    ]
    if names:
        values = [list(dict.fromkeys(_value(one, name) for one in flat)) for name in names]
        shown = [
            f"{name} ({shorten_list(found, noun='values')})"
            for name, found in zip(names[:MAX_NAMES], values, strict=False)
        ]
        more = [f"{len(names) - MAX_NAMES} more settings"] if len(names) > MAX_NAMES else []
        yield Caution(
            "settings", False, f"the configurations differ in {join_names([*shown, *more])}"
        )


_COVERED_BY_OTHER_CAUTIONS = (
    "compression", "distillation", "optimizer", "max_tokens", "tokens_per_step", "sequence_length",
    START, EXTENDED, *CONDITION_SETTINGS,
)  # fmt: skip
"""Settings about which other functions yield cautions."""


def _value(settings: Mapping[str, Any], name: str) -> str:
    return setting_text(settings, name) or "not set"


def _circumstances(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about differences in optimizer, precision, machine and code."""
    runs = [run for group in groups for run in group.runs]
    for name, read, is_serious in _CIRCUMSTANCES:
        values = sorted({_shortened(read(run)) for run in runs})
        if len(values) > 1:
            yield Caution(name, is_serious, f"{name} differs: {join_names(values)}")
    dirty = [run for run in runs if run.fact("git.dirty")]
    if dirty:
        text = (
            f"{plural(len(dirty), 'run')} used a working tree with uncommitted changes: "
            "the commit alone does not reproduce them"
        )
        yield Caution("git commit", False, text)


_CIRCUMSTANCES: tuple[tuple[str, Callable[[Run], Any], bool], ...] = (
    ("optimizer", lambda run: run.optimizer, True),
    ("precision", lambda run: run.fact("precision"), True),
    ("device", lambda run: run.fact("device"), False),
    ("number of threads", lambda run: run.fact("threads"), False),
    ("torch version", lambda run: run.fact("versions.torch"), False),
    ("git commit", lambda run: run.fact("git.commit"), False),
)


def _shortened(value: Any) -> str:
    """The value as text; a hash is shortened to ten digits."""
    text = "unknown" if value is None else str(value)
    return text[:10] if len(text) == 40 and " " not in text else text
