"""Decides which configurations have comparable losses."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.report.ancestry import Start, start_of
from mobilellm.report.caution import Caution, labels_by_value
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import START, setting_text
from mobilellm.report.runs import Run
from mobilellm.units import count_text

EQUAL_TOKENS = 1.001
"""Token counts within this factor are equal: runs end after a whole optimizer step."""


@dataclass(frozen=True)
class Condition:
    """One property in which two runs must agree for their losses to be comparable."""

    kind: str
    """Name of the property, e.g. `document mask`."""
    value: Callable[[Run], Any]
    """Reads the property of a run."""
    text: Callable[[Run], str]
    """Formats the property of a run for a caution."""
    consequence: str
    """Why the losses are not comparable if the property differs."""
    is_in_config: bool = True
    """Whether the property can only be read from config.yaml, which old runs may lack."""

    def is_met(self, first: Run, second: Run) -> bool:
        """Whether both runs agree; True if the property of one of them is unknown."""
        is_known = not self.is_in_config or bool(first.config and second.config)
        return not is_known or self.value(first) == self.value(second)


def _on_off(run: Run) -> str:
    return "on" if run.setting("data.document_mask") else "off"


def validation_tokens(run: Run) -> float | None:
    """The number of tokens of one validation; None: the whole split, or unknown."""
    value = run.setting("validation_tokens")
    return float(value) if isinstance(value, int | float) else None


CONDITIONS = (
    Condition(
        "document mask",
        _on_off,
        _on_off,
        "the losses differ in kind, since the documents of a window attend to each other or not",
    ),
    Condition(
        "validation_tokens",
        validation_tokens,
        lambda run: "all" if (tokens := validation_tokens(run)) is None else count_text(tokens),
        "the validation texts differ",
    ),
    Condition(
        "sequence_length",
        lambda run: run.sequence_length,
        lambda run: count_text(run.sequence_length),
        "the validation windows differ",
        is_in_config=False,
    ),
)
"""The properties in which two runs with the same validation text must agree."""

CONDITION_SETTINGS = ("data.document_mask", "validation_tokens")
"""The settings that `CONDITIONS` compare."""


def choose_metric(groups: Sequence[RunGroup]) -> str | None:
    """Choose the loss by which configurations are compared.

    `incomparability_reason` decides which pairs are comparable.

    Returns:
        `val_loss` if all runs have the same tokenizer, otherwise `val_bits_per_byte`; None if a run
        has no bits per byte.
    """
    runs = [run for group in groups for run in group.runs]
    if len({run.fact("hashes.tokenizer") for run in runs}) == 1:
        return "val_loss"
    if all(run.val_bits_per_byte is not None for run in runs):
        return "val_bits_per_byte"
    return None


def incomparability_reason(first: RunGroup, second: RunGroup) -> str | None:
    """Return why the losses of two configurations are not comparable; None if they are."""
    one, other = first.first, second.first
    has_one_tokenizer = one.fact("hashes.tokenizer") == other.fact("hashes.tokenizer")
    text = "validation" if has_one_tokenizer else "data"
    if one.fact(f"hashes.{text}") != other.fact(f"hashes.{text}"):
        return "different validation text"
    if not has_one_tokenizer and None in (one.val_bits_per_byte, other.val_bits_per_byte):
        return "different tokenizers, and no bits per byte"
    for condition in CONDITIONS:
        if not condition.is_met(one, other):
            return f"different {condition.kind}"
    return None if have_comparable_starts(one, other) else "different initial weights"


def have_comparable_starts(first: Run, second: Run) -> bool:
    """Whether two runs have the same initial weights, or equal total numbers of training tokens."""
    one, other = start_of(first), start_of(second)
    if one.folder == other.folder:
        return True
    if one.origin != other.origin:
        return False
    tokens = sorted((one.tokens + first.tokens, other.tokens + second.tokens))
    return tokens[1] <= EQUAL_TOKENS * tokens[0]


def total_tokens(run: Run) -> int | None:
    """The number of training tokens, including those of the initial weights; None if unknown."""
    start = start_of(run)
    return None if start.origin is not None else start.tokens + run.tokens


def start_text(run: Run) -> str:
    """Describe the initial weights: `from scratch`, or `base (5.00M tokens before)`."""
    start: Start = start_of(run)
    if start.folder is None:
        return "from scratch"
    name = setting_text({START: start.folder}, START)
    if start.origin is not None:
        return f"{name} (tokens before unknown)"
    return f"{name} ({count_text(start.tokens)} tokens before)"


def loss_cautions(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions that say why some pairs of configurations have no verdict."""
    runs = [group.first for group in groups]
    for condition in CONDITIONS:
        if all(condition.is_met(runs[0], run) for run in runs):
            continue
        values = {group.label: condition.text(group.first) for group in groups}
        unit = " (in tokens)" if condition.kind == "sequence_length" else ""
        text = (
            f"{condition.kind} differs{unit}: {labels_by_value(values)}; {condition.consequence}, "
            "so no verdict is given between them"
        )
        yield Caution(condition.kind, True, text)
    starts = {group.label: start_text(group.first) for group in groups}
    if len({start_of(run).folder for run in runs}) > 1:
        pairs = itertools.combinations(runs, 2)
        is_equal = all(have_comparable_starts(first, second) for first, second in pairs)
        end = (
            "the total numbers of training tokens are equal"
            if is_equal
            else "no verdict is given between them unless their total training tokens are equal"
        )
        yield Caution("initial weights", not is_equal, f"{labels_by_value(starts)}; {end}")


def comparable_subsets(groups: Sequence[RunGroup]) -> tuple[tuple[RunGroup, ...], ...]:
    """Divide configurations into subsets of comparable ones, the largest subset first."""
    subsets: list[list[RunGroup]] = []
    for group in groups:
        for subset in subsets:
            if all(incomparability_reason(group, other) is None for other in subset):
                subset.append(group)
                break
        else:
            subsets.append([group])
    return tuple(tuple(subset) for subset in sorted(subsets, key=len, reverse=True))
