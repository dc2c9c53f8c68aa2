"""Accuracy of a model on questions, with its confidence interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mobilellm.data.prepared_prompts import Question
from mobilellm.evaluation.continuations import ContinuationScore, score_continuations
from mobilellm.evaluation.intervals import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """How many questions were answered correctly."""

    correct: int
    """Number of correct answers."""
    count: int
    """Number of questions."""
    chance: float
    """Expected accuracy of random choices; 0 for questions without choices."""

    @property
    def share(self) -> float:
        """Fraction of the questions that were answered correctly."""
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy."""
        return wilson_interval(self.correct, self.count)


def answer_accuracy(
    model: nn.Module,
    questions: Sequence[Question],
    *,
    per_token: bool = False,
    batch_tokens: int = 8192,
    device: torch.device | None = None,
) -> Accuracy:
    """Let a model answer questions, and count the correct answers.

    The answer to a question with choices is the most likely choice given the prompt, with its
    end-of-text token; among equally likely choices, the first. A question without choices is
    answered correctly if greedy decoding gives its label. A single forward pass shows this: each
    token of the label must be the most likely one after the tokens before it.

    Args:
        model: a MobileLLM.
        questions: at least one.
        per_token: compare choices by their log-likelihood per token, so that long choices are not
            at a disadvantage; otherwise by the log-likelihood of all tokens.
        batch_tokens: the most tokens per forward pass.
        device: of the model; default: the device of its first parameter.

    Raises:
        ValueError: there are no questions.
    """
    if not questions:
        raise ValueError(
            "accuracy needs at least 1 question; give a validation split with at least 1 row"
        )
    answers = [question.choices or (question.label,) for question in questions]
    pairs = [
        (question.prompt, answer)
        for question, given in zip(questions, answers, strict=True)
        for answer in given
    ]
    scores = iter(score_continuations(model, pairs, batch_tokens=batch_tokens, device=device))
    correct, chance = 0, 0.0
    for question, given in zip(questions, answers, strict=True):
        scored = [next(scores) for _ in given]
        if question.choices:
            is_right = [np.array_equal(choice, question.label) for choice in given]
            correct += is_right[_best(scored, given, per_token)]
            chance += sum(is_right) / len(is_right)
        else:
            correct += scored[0].is_greedy
    return Accuracy(correct, len(questions), chance / len(questions))


def _best(scores: Sequence[ContinuationScore], answers: Sequence[Any], per_token: bool) -> int:
    values = [
        score.log_likelihood / (len(answer) if per_token else 1)
        for score, answer in zip(scores, answers, strict=True)
    ]
    return int(np.argmax(values))
