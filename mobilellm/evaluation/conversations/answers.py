"""Answers that a model writes in the place of the turns of conversations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mobilellm.data.conversations.calls import Call
from mobilellm.data.tokenizers.answer import Answer, read_answer
from mobilellm.evaluation.conversations.asked_turns import AskedTurn
from mobilellm.evaluation.language_model import Advance, LanguageModel
from mobilellm.models.generation import generate
from mobilellm.models.token_constraints import TokenConstraint

BATCH_TOKENS = {"cpu": 16384}
"""The most tokens of prompts and answers that are generated together, by type of device."""
OTHER_BATCH_TOKENS = 131072

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model answers, and how its calls are judged."""

    end_tokens: Sequence[int]
    """Tokens that end an answer."""
    find_problem: Callable[[Call, Tools], str | None]
    """Says what is wrong with a call of the functions; None if it is valid."""
    constrain: Callable[[Tools], TokenConstraint] | None = None
    """The constraint of one call of the functions; None: only free answers are wanted."""
    max_new_tokens: int = 256
    """The most tokens of an answer."""


def write_answers(
    model: LanguageModel,
    turns: Sequence[AskedTurn],
    protocol: Protocol,
    *,
    is_constrained: bool = False,
    advance: Advance | None = None,
) -> list[Answer]:
    """Let a model write each of the turns by greedy decoding.

    Args:
        model: with its tokenizer.
        turns: see `fitting_turns`.
        protocol: how.
        is_constrained: whether every answer must be a call of a function that its conversation
            offers. Turns of conversations that offer none are answered freely.
        advance: called with the number of turns that were answered, after each batch.

    Raises:
        ValueError: a schema of a function cannot constrain a text.
    """
    answers: list[Answer | None] = [None] * len(turns)
    for batch in _batches(model, turns, protocol.max_new_tokens):
        chosen = [turns[index] for index in batch]
        constraints: list[TokenConstraint | None] = [None] * len(batch)
        if is_constrained and protocol.constrain is not None:
            constraints = [protocol.constrain(one.tools) if one.tools else None for one in chosen]
        for index, answer in zip(batch, _write(model, chosen, protocol, constraints), strict=True):
            answers[index] = answer
        if advance is not None:
            advance(len(batch))
    return [answer for answer in answers if answer is not None]


def _batches(
    model: LanguageModel, turns: Sequence[AskedTurn], new_tokens: int
) -> Iterator[list[int]]:
    """Indices of the turns of each batch, which have prompts of similar lengths."""
    kind = next(model.model.parameters()).device.type
    limit = model.batch_tokens or BATCH_TOKENS.get(kind, OTHER_BATCH_TOKENS)
    order = sorted(range(len(turns)), key=lambda index: -len(turns[index].prompt))
    while order:
        width = len(turns[order[0]].prompt) + new_tokens
        size = max(1, limit // width)
        yield order[:size]
        order = order[size:]


def _write(
    model: LanguageModel,
    turns: Sequence[AskedTurn],
    protocol: Protocol,
    constraints: Sequence[TokenConstraint | None],
) -> Iterator[Answer]:
    prompts = [torch.tensor(turn.prompt) for turn in turns]
    device = next(model.model.parameters()).device
    rows = generate(
        model.model, [prompt.to(device) for prompt in prompts], protocol.max_new_tokens,
        eos_token_id=protocol.end_tokens,
        constraints=constraints if any(constraints) else None,
    )  # fmt: skip
    for new in rows[:, -protocol.max_new_tokens :].tolist():
        yield read_answer(model.tokenizer, new, protocol.end_tokens)
