"""What makes a comparison unfair, or too weak to conclude from.

Source: the confounds of the depth-against-width grid of Liu et al. 2024, arXiv:2402.14905,
tables 11 and 12: unequal body parameters, one learning rate for all widths, one seed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mobilellm.models.config import BlockShape, ModelConfig
from mobilellm.report.arms import (
    EXTENDED,
    START,
    compression_text,
    differing_settings,
    distillation_text,
    extension_text,
    setting_text,
    settings,
)
from mobilellm.report.budgets import TOLERANCE, budget_groups, budgets
from mobilellm.report.caution import MOST_NAMES, Caution, by_value, some
from mobilellm.report.comparability import (
    CONDITION_SETTINGS,
    EQUAL_TOKENS,
    loss_cautions,
    total_tokens,
    validation_tokens,
)
from mobilellm.report.learning_rates import learning_rate_cautions
from mobilellm.report.runs import Run
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import MINIMUM_SEEDS
from mobilellm.units import count_text, listed, plural

NATS_BELOW_UNIGRAM = 1.0
"""A run that ends closer than this to the unigram loss has learnt little but word counts."""


def metric_of(shapes: Sequence[Shape]) -> str | None:
    """The loss by which shapes may be compared.

    `val_loss` where all have the same tokenizer, else `val_bits_per_byte`, else (where a run has
    none) nothing. Which of them may be compared is said by `comparability.obstacle`.
    """
    runs = [run for shape in shapes for run in shape.runs]
    if len({run.fact("hashes.tokenizer") for run in runs}) == 1:
        return "val_loss"
    if all(run.val_bits_per_byte is not None for run in runs):
        return "val_bits_per_byte"
    return None


def cautions(shapes: Sequence[Shape]) -> tuple[Caution, ...]:
    """Every caution, the grave ones first."""
    found = [
        *_budget(shapes),
        *_amounts(shapes),
        *_data(shapes),
        *loss_cautions(shapes),
        *(Caution("learning rate", True, text) for text in learning_rate_cautions(shapes)),
        *_seeds(shapes),
        *_learnt_little(shapes),
        *_architecture(shapes),
        *_arms(shapes),
        *_made_differently(shapes),
    ]
    return tuple(sorted(found, key=lambda caution: not caution.is_grave))


def _budget(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Which budgets are matched and which are not, shared shapes included."""
    groups = budget_groups(shapes)
    for group in groups:
        if len(group) < 2:
            continue
        found = budgets(group)
        matched = [str(budget) for budget in found if budget.is_matched]
        unmatched = [str(budget) for budget in found if not budget.is_matched]
        within = f"within ±{100 * TOLERANCE:.0f} %"
        if not matched:
            yield Caution("budget", True, f"no budget is equal {within}: {listed(unmatched)}")
        elif unmatched:
            text = f"equal {within}: {listed(matched)}; not equal: {listed(unmatched)}"
            yield Caution("budget", False, text)
    if len(groups) > 1:
        text = "; ".join(some([shape.label for shape in group]) for group in groups)
        yield Caution("budget", True, f"shapes of different budgets are compared: {text}")


def _amounts(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Tokens and batches that differ; those behind starting weights count where they are known."""
    runs = [run for shape in shapes for run in shape.runs]
    totals = [total_tokens(run) for run in runs]
    is_known = None not in totals
    tokens = [
        run.tokens if total is None or not is_known else total
        for total, run in zip(totals, runs, strict=True)
    ]
    if max(tokens) > EQUAL_TOKENS * min(tokens):
        amounts = dict(zip((id(run) for run in runs), tokens, strict=True))
        per_shape = {
            shape.label: count_text(sum(amounts[id(run)] for run in shape.runs) / len(shape.runs))
            for shape in shapes
        }
        has_parents = any(run.tokens != amount for run, amount in zip(runs, tokens, strict=True))
        note = ", those behind the starting weights included" if has_parents else ""
        text = f"runs saw different numbers of training tokens{note}: {by_value(per_shape)}"
        yield Caution("tokens", True, text)
    values = {shape.label: count_text(shape.first.tokens_per_step) for shape in shapes}
    if len(set(values.values())) > 1:
        text = f"tokens_per_step differs (in tokens): {by_value(values)}"
        yield Caution("tokens_per_step", True, text)


def _data(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Other text, tokenizer or validation split, by the hashes of the prepared data."""
    consequences = {
        "tokenizer": "nats per token do not compare; verdicts are by bits per byte only",
        "validation": "no verdict is given between them",
        "train": "the shapes learnt from different text",
        "data": "the shapes were prepared from different sources",
    }
    runs = [run for shape in shapes for run in shape.runs]
    differing = [
        name for name in consequences if len({run.fact(f"hashes.{name}") for run in runs}) > 1
    ]
    if "tokenizer" in differing and "data" not in differing:
        # Another tokenizer turns the same text into other tokens.
        differing = ["tokenizer"]
    for name in differing:
        values = {shape.label: str(shape.first.fact(f"hashes.{name}"))[:8] for shape in shapes}
        noun = {"train": "training text", "validation": "validation text"}.get(name, name)
        text = f"the {noun} differs ({by_value(values)}): {consequences[name]}"
        yield Caution("data", True, text)
    if "tokenizer" in differing and any(validation_tokens(run) for run in runs):
        text = (
            "validation_tokens reads windows spread over the validation text, and another "
            "tokenizer makes other windows: part of a difference may be the sample; "
            "validation_tokens=null reads all of it"
        )
        yield Caution("data", True, text)


def _seeds(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Too few seeds, and seeds that not all shapes have."""
    few = [shape.label for shape in shapes if len(shape.seeds) < MINIMUM_SEEDS]
    if few:
        text = (
            f"fewer than {MINIMUM_SEEDS} seeds: {some(few)}; no verdict is given on them, "
            "train more seeds"
        )
        yield Caution("seeds", True, text)
    common = set.intersection(*(set(shape.seeds) for shape in shapes))
    missing = {shape.label: sorted(set(shape.seeds) - common) for shape in shapes}
    if any(missing.values()):
        unpaired = some(
            [
                f"{label} seed {listed([str(seed) for seed in seeds])}"
                for label, seeds in missing.items()
                if seeds
            ]
        )
        text = (
            f"not every shape has every seed: {unpaired} count only where both of a pair have them"
        )
        yield Caution("seeds", False, text)


def _learnt_little(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Runs that end near the unigram loss."""
    near = []
    for shape in shapes:
        gaps = [
            unigram - run.val_loss
            for run in shape.runs
            if (unigram := run.number("unigram_loss")) is not None
        ]
        if gaps and min(gaps) < NATS_BELOW_UNIGRAM:
            side = "below" if min(gaps) >= 0 else "above"
            near.append(f"{shape.label} ({abs(min(gaps)):.2f} {side})")
    if near:
        text = (
            f"not {NATS_BELOW_UNIGRAM:g} nat below the unigram loss: {some(near)}; training was "
            "too short to conclude much, raise max_tokens"
        )
        yield Caution("training length", True, text)


def _architecture(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """What the shapes differ in besides depth and width."""
    differing = []
    for name, trait in _TRAITS:
        values = sorted({trait(block, s.model) for s in shapes for block in s.model.block_shapes})
        if len(values) > 1:
            ends = values if len(values) < 4 else [values[0], values[-1]]
            differing.append(f"{name} ({listed(ends) if len(values) < 4 else ' to '.join(ends)})")
    if differing:
        text = f"besides depth and width the shapes differ in {listed(differing)}"
        yield Caution("architecture", False, text)


# Ratios are rounded, since no two widths give the same one exactly.
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
        "feed-forward width over model width",
        lambda block, model: f"{block.intermediate_size / model.hidden_size:.1f}",
    ),
    ("vocabulary size", lambda _, model: str(model.vocab_size)),
)


def _arms(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Compression, distillation and other settings in which the shapes differ."""
    for name, read in (("compression", compression_text), ("distillation", distillation_text)):
        values = list(dict.fromkeys(read(shape.first) or "none" for shape in shapes))
        if len(values) > 1:
            yield Caution(name, False, f"{name} differs: {some(values, noun='kinds')}")
    compressed = [shape.label for shape in shapes if compression_text(shape.first)]
    if compressed:
        who = "all shapes" if len(compressed) == len(shapes) else some(compressed)
        text = f"compressed, and trained on (recovered) in these runs: {who}"
        yield Caution("compression", False, text)
    rewarmed = [s.label for s in shapes if extension_text(s.first) == "re-warmed"]
    if rewarmed:
        text = (
            f"extended after their learning rate had fallen, which then rose again (re-warmed): "
            f"{some(rewarmed)}; one run of all tokens would have had another schedule"
        )
        yield Caution("schedule", len(rewarmed) < len(shapes), text)
    flat = [settings(shape.first) for shape in shapes]
    names = [name for name in differing_settings(flat) if not name.startswith(_SAID_ELSEWHERE)]
    if names:
        values = [list(dict.fromkeys(_value(one, name) for one in flat)) for name in names]
        shown = [
            f"{name} ({some(found, noun='values')})"
            for name, found in zip(names[:MOST_NAMES], values, strict=False)
        ]
        more = [f"{len(names) - MOST_NAMES} more settings"] if len(names) > MOST_NAMES else []
        yield Caution("settings", False, f"the shapes differ in {listed([*shown, *more])}")


_SAID_ELSEWHERE = (
    "compression", "distillation", "optimizer", "max_tokens", "tokens_per_step", "sequence_length",
    START, EXTENDED, *CONDITION_SETTINGS,
)  # fmt: skip
"""Settings of which another caution speaks."""


def _value(settings: Mapping[str, Any], name: str) -> str:
    return setting_text(settings, name) or "not given"


def _made_differently(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Optimizer, precision, machine and code that differ between runs."""
    runs = [run for shape in shapes for run in shape.runs]
    for name, read, is_grave in _MAKINGS:
        values = sorted({_shortened(read(run)) for run in runs})
        if len(values) > 1:
            yield Caution(name, is_grave, f"{name} differs: {listed(values)}")
    dirty = [run for run in runs if run.fact("git.dirty")]
    if dirty:
        text = (
            f"{plural(len(dirty), 'run')} came from a working tree with uncommitted changes: "
            "the commit alone does not reproduce them"
        )
        yield Caution("git commit", False, text)


_MAKINGS: tuple[tuple[str, Callable[[Run], Any], bool], ...] = (
    ("optimizer", lambda run: run.optimizer, True),
    ("precision", lambda run: run.fact("precision"), True),
    ("device", lambda run: run.fact("device"), False),
    ("number of threads", lambda run: run.fact("threads"), False),
    ("torch version", lambda run: run.fact("versions.torch"), False),
    ("git commit", lambda run: run.fact("git.commit"), False),
)


def _shortened(value: Any) -> str:
    """Ten digits of a hash are enough to tell it."""
    text = "unknown" if value is None else str(value)
    return text[:10] if len(text) == 40 and " " not in text else text
