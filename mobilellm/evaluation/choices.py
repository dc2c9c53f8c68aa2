"""Measures of how a model answers questions with choices, from the log-likelihoods of the choices.

Ties count fairly: if the right answer is one of n best choices, it counts 1/n. A model that gives
every choice the same score therefore has exactly the accuracy of chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Normalization = Literal["none", "characters", "bytes", "unconditional"]
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "characters", "bytes", "unconditional")

TIE_NATS = 1e-4
"""Log-likelihoods that differ by no more are tied: this much may depend on rounding."""


@dataclass(frozen=True, kw_only=True)
class ChoiceScores:
    """The choices of one question, as a model scored them.

    Raises:
        ValueError: the fields have different lengths, no choice or no right answer is given, or a
            right answer is not one of the choices.
    """

    log_likelihoods: tuple[float, ...]
    """Of each choice given the question, in nats."""
    unconditional: tuple[float, ...] | None = None
    """Of each choice without the question, in nats; None if it was not measured."""
    characters: tuple[int, ...]
    """Number of characters of each choice, without the space before it."""
    num_bytes: tuple[int, ...]
    """Number of UTF-8 bytes of each choice, without the space before it."""
    right: tuple[int, ...]
    """Indices of the right answers."""

    def __post_init__(self) -> None:
        """Check the fields."""
        count = len(self.log_likelihoods)
        fields = (self.characters, self.num_bytes, self.unconditional)
        if any(field is not None and len(field) != count for field in fields):
            raise ValueError(
                f"a question has {count} log-likelihoods, {len(self.characters)} numbers of "
                f"characters and {len(self.num_bytes)} of bytes; give one of each per choice"
            )
        if not self.right or not all(0 <= index < count for index in self.right):
            raise ValueError(
                f"the right answers are {list(self.right)}, but the choices are numbered from 0 "
                f"to {count - 1}; give at least one of them"
            )

    @property
    def chance(self) -> float:
        """Accuracy of a random choice."""
        return len(set(self.right)) / len(self.log_likelihoods)


def accuracy(question: ChoiceScores, normalization: Normalization = "none") -> float:
    """Return 1 if the best choice is right, 0 if it is wrong, and a fraction if choices are tied.

    Args:
        question: the scored choices.
        normalization: what the choices are compared by: their log-likelihood (`none`), that per
            character or per byte, or that minus the log-likelihood without the question.

    Raises:
        ValueError: `unconditional` is required, but was not measured.
    """
    scores, tolerance = _comparable(question, normalization)
    best = int(np.argmax(scores))
    tied = np.flatnonzero(scores[best] - scores <= np.maximum(tolerance, tolerance[best]))
    return len(set(tied.tolist()) & set(question.right)) / len(tied)


def answer_bits(question: ChoiceScores) -> tuple[float, int]:
    """Return the bits of the right answer given the question, and its number of bytes.

    If several answers are right, the one with the fewest bits per byte counts.
    """
    found = [
        (-question.log_likelihoods[index] / math.log(2), max(1, question.num_bytes[index]))
        for index in set(question.right)
    ]
    return min(found, key=lambda pair: pair[0] / pair[1])


def probability_margin(question: ChoiceScores) -> float:
    """Return the probability of the right answer minus that of the best wrong one, from -1 to 1.

    The probabilities are those of the choices given the question and that one of them is the
    answer. Without a wrong choice, the margin is 1.
    """
    values = np.asarray(question.log_likelihoods)
    probabilities = np.exp(values - values.max())
    probabilities /= probabilities.sum()
    is_right = np.zeros(len(values), dtype=bool)
    is_right[list(question.right)] = True
    wrong = probabilities[~is_right]
    return float(probabilities[is_right].sum() - (wrong.max() if len(wrong) else 0.0))


def chance(questions: Sequence[ChoiceScores]) -> float:
    """Return the expected accuracy of random choices."""
    return sum(question.chance for question in questions) / len(questions)


def _comparable(
    question: ChoiceScores, normalization: Normalization
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of the choices, and the difference below which each is tied with another."""
    values = np.asarray(question.log_likelihoods, dtype=np.float64)
    tolerance = np.full(len(values), TIE_NATS)
    if normalization == "none":
        return values, tolerance
    if normalization == "unconditional":
        if question.unconditional is None:
            raise ValueError(
                "the log-likelihoods without the question were not measured; measure them, or use "
                "normalization='none', 'characters' or 'bytes'"
            )
        return values - np.asarray(question.unconditional), tolerance
    sizes = question.characters if normalization == "characters" else question.num_bytes
    divisor = np.maximum(np.asarray(sizes, dtype=np.float64), 1.0)
    return values / divisor, tolerance / divisor
