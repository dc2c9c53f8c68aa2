"""Rows with an input, its label and a rationale, from which a student learns two tasks.

Each row becomes two prompted sequences: the prompt "predict: " and the input, with the label as the
target, and the prompt "explain: " and the input, with the rationale as the target. Only the first
is used after training, so that rationales add no cost to inference.

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
"""In batches, the number of a task is its index here plus 1; 0 means no task."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A valid row."""

    input: str
    """The input of the student, including answer choices."""
    targets: Mapping[Task, str]
    """The target of each task; there is no rationale if the rows have none."""
    choices: tuple[str, ...] = ()
    """Answers to choose from, one of which is the label; empty: any text may be the answer."""


@dataclass(frozen=True, kw_only=True)
class Rationales(Source):
    """The columns of the rows, and the parts of the prompts.

    Raises:
        ValueError: the prompts of the two tasks are equal, or a column is used twice.
    """

    input_column: str = "input"
    """The column with the question."""
    choices_column: str | None = None
    """The column with the list of answers to choose from; default: there are no choices."""
    label_column: str = "label"
    """The column with the answer; if there are choices, the text of one of them."""
    rationale_column: str | None = "rationale"
    """The column with the rationale; None: the rows have none."""
    label_prompt: str = "predict: "
    """Prompt before the input for the label task."""
    rationale_prompt: str = "explain: "
    """Prompt before the input for the rationale task."""
    end_of_prompt: str = "\n"
    """Text after the input, which shows a decoder-only model where the input ends."""

    def __post_init__(self) -> None:
        """Check the prompts and the columns."""
        self.check_values()
        if not self.label_prompt or self.label_prompt == self.rationale_prompt:
            raise ValueError(
                f"data.label_prompt={self.label_prompt!r} must be text that differs from "
                f"data.rationale_prompt={self.rationale_prompt!r}; otherwise the student cannot "
                "tell the two tasks apart"
            )
        columns = [column for column in self.columns.values() if column is not None]
        twice = next((column for column in columns if columns.count(column) > 1), None)
        if twice is not None:
            raise ValueError(
                f"column {twice!r} is used for two fields of data; give each field its own column"
            )
        super().__post_init__()

    @property
    def columns(self) -> dict[str, str | None]:
        """The fields that name columns."""
        names = ("input_column", "choices_column", "label_column", "rationale_column")
        return {name: getattr(self, name) for name in names}

    @property
    def prompts(self) -> dict[Task, str]:
        """The prompt of each task for which the rows have targets."""
        prompts: dict[Task, str] = {"label": self.label_prompt}
        if self.rationale_column is not None:
            prompts["rationale"] = self.rationale_prompt
        return prompts

    @property
    def layout(self) -> dict[str, Any]:
        """The settings that determine the sequences of a row, as plain data."""
        return {**self.columns, "prompts": dict(self.prompts), "end_of_prompt": self.end_of_prompt}

    @abstractmethod
    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The rows of a split in a fixed order, each with its location for messages."""

    def examples(self, split: Split) -> Iterator[Example]:
        """The rows of a split, after checks.

        Raises:
            ValueError: a row lacks a column, a text is empty, or a label is not among the choices;
                the message names the location.
        """
        for row, place in self.rows(split):
            yield self._example(row, place)

    def texts(self, example: Example) -> Iterator[str]:
        """The prompt and the target of each task in turn."""
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
                f"set data.{field} to another column, or correct the row"
            )
        if not value.strip():
            raise ValueError(f"{place} has an empty {column!r}; fill it in, or remove the row")
        encode_text(value, place)
        return value


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The question with its answer choices (a), (b), …, in the format of the paper's code."""
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
