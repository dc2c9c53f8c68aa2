"""Which shapes' losses are of one kind, so that a difference between them means something."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.report.ancestry import Start, start_of
from mobilellm.report.arms import START, setting_text
from mobilellm.report.caution import Caution, by_value
from mobilellm.report.runs import Run
from mobilellm.report.shapes import Shape
from mobilellm.run_folder import flat_config
from mobilellm.units import count_text

EQUAL_TOKENS = 1.001
"""Tokens within this factor are as good as equal: runs end with a whole step."""


@dataclass(frozen=True)
class Condition:
    """One thing that two runs must have in common."""

    kind: str
    """What it is called, e.g. `document mask`."""
    value: Callable[[Run], Any]
    text: Callable[[Run], str]
    consequence: str
    is_in_config: bool = True
    """Whether it is known only where there is a config.yaml."""

    def is_met(self, first: Run, second: Run) -> bool:
        """Whether both have it in common, as far as is known."""
        is_known = not self.is_in_config or bool(first.config and second.config)
        return not is_known or self.value(first) == self.value(second)


def _setting(name: str) -> Callable[[Run], Any]:
    return lambda run: flat_config(run.config).get(name)


def _on_off(run: Run) -> str:
    return "on" if _setting("data.document_mask")(run) else "off"


def validation_tokens(run: Run) -> float | None:
    """Tokens of one validation; None: the whole split, or not known."""
    value = _setting("validation_tokens")(run)
    return float(value) if isinstance(value, int | float) else None


CONDITIONS = (
    Condition(
        "document mask",
        _on_off,
        _on_off,
        "the loss is another one, since documents of a window see each other or not",
    ),
    Condition(
        "validation_tokens",
        validation_tokens,
        lambda run: "all" if (tokens := validation_tokens(run)) is None else count_text(tokens),
        "the validation text is another one",
    ),
    Condition(
        "sequence_length",
        lambda run: run.sequence_length,
        lambda run: count_text(run.sequence_length),
        "the windows of the validation text are others",
        is_in_config=False,
    ),
)
"""What runs that read the same text must have in common, so that their losses compare."""


CONDITION_SETTINGS = ("data.document_mask", "validation_tokens")
"""Settings that the conditions speak of."""


def obstacle(first: Shape, second: Shape) -> str | None:
    """Why the losses of two shapes cannot be compared; None where they can."""
    one, other = first.first, second.first
    has_one_tokenizer = one.fact("hashes.tokenizer") == other.fact("hashes.tokenizer")
    text = "validation" if has_one_tokenizer else "data"
    if one.fact(f"hashes.{text}") != other.fact(f"hashes.{text}"):
        return "other validation text"
    if not has_one_tokenizer and None in (one.val_bits_per_byte, other.val_bits_per_byte):
        return "other tokenizer, and no bits per byte"
    for condition in CONDITIONS:
        if not condition.is_met(one, other):
            return f"other {condition.kind}"
    return None if starts_compare(one, other) else "other starting weights"


def starts_compare(first: Run, second: Run) -> bool:
    """Whether two runs had as much training in all, or at least began with the same weights."""
    one, other = start_of(first), start_of(second)
    if one.folder == other.folder:
        return True
    if one.origin != other.origin:
        return False
    tokens = sorted((one.tokens + first.tokens, other.tokens + second.tokens))
    return tokens[1] <= EQUAL_TOKENS * tokens[0]


def total_tokens(run: Run) -> int | None:
    """Training tokens, those behind the starting weights included; None where not known."""
    start = start_of(run)
    return None if start.origin is not None else start.tokens + run.tokens


def start_text(run: Run) -> str:
    """`from scratch`, `base (5.00M tokens before)`, `base (tokens before unknown)`."""
    start: Start = start_of(run)
    if start.folder is None:
        return "from scratch"
    name = setting_text({START: start.folder}, START)
    if start.origin is not None:
        return f"{name} (tokens before unknown)"
    return f"{name} ({count_text(start.tokens)} tokens before)"


def loss_cautions(shapes: Sequence[Shape]) -> Iterable[Caution]:
    """Why some of the shapes have no verdict against others."""
    runs = [shape.first for shape in shapes]
    for condition in CONDITIONS:
        if all(condition.is_met(runs[0], run) for run in runs):
            continue
        values = {shape.label: condition.text(shape.first) for shape in shapes}
        unit = " (in tokens)" if condition.kind == "sequence_length" else ""
        text = (
            f"{condition.kind} differs{unit}: {by_value(values)}; {condition.consequence}, so no "
            "verdict is given between them"
        )
        yield Caution(condition.kind, True, text)
    starts = {shape.label: start_text(shape.first) for shape in shapes}
    if len({start_of(run).folder for run in runs}) > 1:
        pairs = itertools.combinations(runs, 2)
        is_equal = all(starts_compare(first, second) for first, second in pairs)
        end = (
            "with as much training in all"
            if is_equal
            else "no verdict is given between them unless the tokens in all are equal"
        )
        yield Caution("starting weights", not is_equal, f"{by_value(starts)}; {end}")


def comparable_groups(shapes: Sequence[Shape]) -> tuple[tuple[Shape, ...], ...]:
    """Shapes parted so that within a group every two can be compared; large groups first."""
    groups: list[list[Shape]] = []
    for shape in shapes:
        for group in groups:
            if all(obstacle(shape, other) is None for other in group):
                group.append(shape)
                break
        else:
            groups.append([shape])
    return tuple(tuple(group) for group in sorted(groups, key=len, reverse=True))
