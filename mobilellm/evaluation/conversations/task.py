"""The tasks `api_calling` and `chat`: a model writes the turns of held-out conversations."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.tokenizers.answer import Answer
from mobilellm.evaluation.conversations.answers import Protocol, write_answers
from mobilellm.evaluation.conversations.asked_turns import AskedTurn, asked_turns, fitting_turns
from mobilellm.evaluation.conversations.baselines import (
    TrainingTurns,
    majority_answers,
    random_answers,
)
from mobilellm.evaluation.conversations.measures import TurnMeasures
from mobilellm.evaluation.conversations.names import CONSTRAINED, MAJORITY, RANDOM
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.language_model import Advance, LanguageModel
from mobilellm.evaluation.ratios import Ratios

VERSION = "1"
"""Of the measures; results of another version are not compared with these."""


@dataclass(frozen=True, kw_only=True)
class ConversationTask:
    """Held-out conversations, and what is known about the training data."""

    name: str
    """One of `TASKS`."""
    conversations: tuple[Conversation, ...]
    """At least one."""
    training: tuple[Conversation, ...] = ()
    """Training conversations, for the baselines."""
    trained_functions: frozenset[str] | None = None
    """Names of the functions in the training data; None: unknown."""

    def settings(self, form: ChatFormat, protocol: Protocol, limit: int | None) -> dict[str, Any]:
        """What the results depend on, apart from the weights of the model."""
        digest = hashlib.blake2b(digest_size=8)
        for conversation in (*self.conversations, *self.training):
            digest.update(conversation.key())
        digest.update(f"{len(self.training)}{sorted(self.trained_functions or ())}".encode())
        return {
            "limit": limit,
            "max_new_tokens": protocol.max_new_tokens,
            "constrained": protocol.constrain is not None,
            "parser_role": form.parser_role,
            "tool_role": form.tool_role,
            "tools": form.tools,
            "task_version": VERSION,
            "documents_hash": digest.hexdigest(),
        }


def evaluate_conversations(
    model: LanguageModel,
    task: ConversationTask,
    form: ChatFormat,
    protocol: Protocol,
    *,
    limit: int | None = None,
    advance: Advance | None = None,
) -> TaskResult:
    """Let a model write the turns of the assistant and of the parser, and measure what it writes.

    Each turn follows the turns before it as they are in the data.

    Args:
        model: with its tokenizer.
        task: the conversations.
        form: how conversations are written.
        protocol: how the model answers.
        limit: what `task` was limited to, for the settings of the result.
        advance: called with the number of turns that were answered, after each batch.

    Raises:
        ValueError: no turn fits into the context of the model, or a schema cannot constrain a text.
    """
    if protocol.constrain is not None:
        # Reports a schema that is not supported before an answer is generated.
        for tools in (one.tools for one in task.conversations if one.tools):
            protocol.constrain(tools)
    every = asked_turns(task.conversations, form)
    turns = fitting_turns(every, model.context_length, protocol.max_new_tokens)
    if not turns:
        raise ValueError(
            f"of the {len(every)} turns of {task.name}, none leaves room for max_new_tokens="
            f"{protocol.max_new_tokens} in max_position_embeddings={model.context_length} of "
            f"{model.name}; use a smaller --max-new-tokens"
        )
    free = write_answers(model, turns, protocol, advance=advance)
    measures = _measured(task, turns, [answer.text for answer in free], protocol)
    scores = model.score([(turn.prompt, turn.target) for turn in turns])
    measures.add_losses(turns, [-score.log_likelihood for score in scores])
    calls = [turn for turn in turns if turn.calls_functions]
    bound: list[Answer] = []
    if protocol.constrain is not None and calls:
        bound = write_answers(model, calls, protocol, is_constrained=True, advance=advance)
    variants: dict[str, Ratios] = {}
    if bound:
        texts = [answer.text for answer in bound]
        variants[CONSTRAINED] = _measured(task, calls, texts, protocol).sums.ratios()
    training = TrainingTurns(task.training)
    for name, answers in (
        (RANDOM, random_answers(turns, training)),
        (MAJORITY, majority_answers(turns, training)),
    ):
        variants[name] = _measured(task, turns, answers, protocol).sums.ratios()
    return TaskResult(
        task=task.name,
        documents=len(task.conversations),
        ratios=measures.sums.ratios(),
        variants=variants,
        counts=_counts(every, turns, free, bound),
        samples=tuple(_samples(task, turns, free, bound)),
        settings=task.settings(form, protocol, limit),
    )


def _measured(
    task: ConversationTask, turns: Sequence[AskedTurn], answers: Sequence[str], protocol: Protocol
) -> TurnMeasures:
    measures = TurnMeasures(len(task.conversations), task.trained_functions)
    measures.add_answers(turns, answers, protocol.find_problem)
    return measures


def _counts(
    every: Sequence[AskedTurn],
    turns: Sequence[AskedTurn],
    free: Sequence[Answer],
    bound: Sequence[Answer],
) -> dict[str, int]:
    """Numbers of turns, and of what did not go as usual."""
    return {
        "calls": sum(turn.calls_functions for turn in turns),
        "replies": sum(turn.is_reply for turn in turns),
        "unreadable_calls": sum(not (t.calls_functions or t.is_reply) for t in turns),
        "left_out": len(every) - len(turns),
        "cut_answers": sum(answer.is_cut for answer in free),
        "cut_constrained_answers": sum(answer.is_cut for answer in bound),
    }


def _samples(
    task: ConversationTask,
    turns: Sequence[AskedTurn],
    free: Sequence[Answer],
    bound: Sequence[Answer],
) -> list[Mapping[str, Any]]:
    """What was asked for and what was answered, for people who want to read it."""
    constrained = iter(bound)
    found = []
    for turn, answer in zip(turns, free, strict=True):
        sample = {
            "place": task.conversations[turn.dialogue].place,
            "role": turn.turn.role,
            "expected": turn.turn.text,
            **asdict(answer),
        }
        if bound and turn.calls_functions:
            sample[CONSTRAINED] = next(constrained).text
        found.append(sample)
    return found
