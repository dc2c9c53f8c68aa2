"""Rows of an input, its label and the reason for it: two tasks that one student learns.

Each row becomes two prompted sequences, "predict: " and the input, answered by the label, and
"explain: " and the input, answered by the rationale. Only the first is asked for afterwards, so
that reasons cost nothing once the student is trained.

Source: Hsieh et al. 2023, "Distilling Step-by-Step!", arXiv:2305.02301, section 3.2, and
google-research/distilling-step-by-step for the layout of answer choices.
"""

import string
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mobilellm.data.source import Chunk, Source, Split, encode_text

Task = Literal["label", "rationale"]
TASKS: tuple[Task, Task] = ("label", "rationale")
"""In batches a task's number is its place here plus 1; 0 stands for none."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row, checked."""

    input: str
    """What the student is given, answer choices included."""
    targets: Mapping[Task, str]
    """What it is to answer; without a rationale where the rows have none."""
    choices: tuple[str, ...] = ()
    """Answers to choose from, one of which is the label; empty: any text may be the answer."""


@dataclass(frozen=True, kw_only=True)
class Rationales(Source):
    """Which columns hold what, and how prompts are put together.

    Raises:
        ValueError: prompts that do not tell the tasks apart, columns used twice.
    """

    input_column: str = "input"
    """The column of the question."""
    choices_column: str | None = None
    """The column of the list of answers to choose from; default: there are none."""
    label_column: str = "label"
    """The column of the answer; with choices, the text of one of them."""
    rationale_column: str | None = "rationale"
    """The column of the reason for the answer; None: the rows have none."""
    label_prompt: str = "predict: "
    """Before the input, where the label is asked for."""
    rationale_prompt: str = "explain: "
    """Before the input, where the rationale is asked for."""
    end_of_prompt: str = "\n"
    """After the input: a model without an encoder has to be told where the input ends."""

    def __post_init__(self) -> None:
        """Check the prompts and the columns."""
        self.check_values()
        if not self.label_prompt or self.label_prompt == self.rationale_prompt:
            raise ValueError(
                f"data.label_prompt={self.label_prompt!r} must be text that differs from "
                f"data.rationale_prompt={self.rationale_prompt!r}; otherwise the student cannot "
                "know which of the two is asked for"
            )
        columns = [column for column in self.columns.values() if column is not None]
        twice = next((column for column in columns if columns.count(column) > 1), None)
        if twice is not None:
            raise ValueError(f"two columns of data are both {twice!r}; give each its own")
        super().__post_init__()

    @property
    def columns(self) -> dict[str, str | None]:
        """The fields that name columns."""
        names = ("input_column", "choices_column", "label_column", "rationale_column")
        return {name: getattr(self, name) for name in names}

    @property
    def prompts(self) -> dict[Task, str]:
        """The beginning of each task's prompt, for the tasks that the rows have targets for."""
        prompts: dict[Task, str] = {"label": self.label_prompt}
        if self.rationale_column is not None:
            prompts["rationale"] = self.rationale_prompt
        return prompts

    @property
    def layout(self) -> dict[str, Any]:
        """Plain data that says how a row becomes sequences."""
        return {**self.columns, "prompts": dict(self.prompts), "end_of_prompt": self.end_of_prompt}

    @abstractmethod
    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The rows of a split in a fixed order, each with its place for messages."""

    def examples(self, split: Split) -> Iterator[Example]:
        """The rows, checked.

        Raises:
            ValueError: a row without a column, an empty text, a label that is not among the
                choices; with the place.
        """
        for row, place in self.rows(split):
            yield self._example(row, place)

    def texts(self, example: Example) -> Iterator[str]:
        """Prompt and target of each task in turn."""
        for task, prompt in self.prompts.items():
            yield prompt + example.input + self.end_of_prompt
            yield example.targets[task]

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """Each prompt with its target as a document of plain text."""
        for example in self.examples(split):
            texts = list(self.texts(example))
            for prompt, target in zip(texts[::2], texts[1::2], strict=True):
                yield Chunk((prompt + target).encode(), True)

    def _example(self, row: Mapping[str, Any], place: str) -> Example:
        targets: dict[Task, str] = {"label": self._text(row, "label_column", place)}
        if self.rationale_column is not None:
            targets["rationale"] = self._text(row, "rationale_column", place)
        question = self._text(row, "input_column", place)
        if self.choices_column is None:
            return Example(input=question, targets=targets)
        choices = _check_choices(self._value(row, "choices_column", place), place)
        if targets["label"] not in choices:
            raise ValueError(
                f"{place}: the answer {targets['label']!r} in column {self.label_column!r} is not "
                f"among the choices {', '.join(map(repr, choices))}; correct or remove the row"
            )
        return Example(input=with_choices(question, choices), targets=targets, choices=choices)

    def _value(self, row: Mapping[str, Any], field: str, place: str) -> Any:
        column = getattr(self, field)
        if column not in row:
            raise ValueError(
                f"{place} has no column {column!r}; set data.{field} to one of "
                f"{', '.join(row) or 'its columns (it has none)'}, or correct the row"
            )
        return row[column]

    def _text(self, row: Mapping[str, Any], field: str, place: str) -> str:
        value = self._value(row, field, place)
        column = getattr(self, field)
        if not isinstance(value, str):
            raise ValueError(
                f"{place} holds {type(value).__name__} in column {column!r}, which must be text; "
                f"set data.{field} to another, or correct the row"
            )
        if not value.strip():
            raise ValueError(f"{place} has an empty {column!r}; write one, or remove the row")
        encode_text(value, place)
        return value


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The question with its answer choices (a), (b), …, as the paper's code writes them."""
    letters = string.ascii_lowercase
    lines = [f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=False)]
    return "\n".join([question, "Answer choices:", *lines])


def _check_choices(choices: Any, place: str) -> tuple[str, ...]:
    is_list = isinstance(choices, list | tuple) and 2 <= len(choices) <= len(string.ascii_lowercase)
    if not is_list or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError(
            f"{place} has {choices!r} as choices, which must be a list of 2 to 26 texts; correct "
            "or remove the row"
        )
    return tuple(choices)
