"""Answers without a model, from the functions that are offered and from training conversations."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mobilellm.data.conversations.calls import Call
from mobilellm.data.conversations.turns import Conversation
from mobilellm.evaluation.conversations.asked_turns import AskedTurn


class TrainingTurns:
    """What the turns of training conversations have.

    Args:
        conversations: may be none: calls then have no arguments, and replies no words.
    """

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        """Collect replies and calls."""
        turns = [turn for conversation in conversations for turn in conversation.turns]
        self.replies = [turn.text for turn in turns if turn.role == "assistant"]
        self.calls: dict[str, list[Call]] = {}
        """The calls of each function, by its name."""
        for turn in turns:
            for call in turn.calls:
                self.calls.setdefault(call.name, []).append(call)


def random_answers(
    turns: Sequence[AskedTurn], training: TrainingTurns, *, seed: int = 0
) -> list[str]:
    """Answer at random, knowing whether a call or a reply is due.

    A call is that of a random function of those that are offered, with the arguments of a random
    call of it in the training data; a reply is a random one of the training data.

    Args:
        turns: what is to be answered.
        training: what there is to draw from.
        seed: of the drawing.
    """
    generator = np.random.default_rng(seed)

    def drawn(values: Sequence[str]) -> str:
        return values[int(generator.integers(len(values)))] if values else ""

    found = []
    for turn in turns:
        if turn.turn.role == "assistant":
            found.append(drawn(training.replies))
            continue
        name = drawn(_possible(turn, training))
        calls = [call.text() for call in training.calls.get(name, [])]
        found.append(drawn(calls or [Call(name).text()]) if name else "")
    return found


def majority_answers(turns: Sequence[AskedTurn], training: TrainingTurns) -> list[str]:
    """Answer what is most frequent in the training data, knowing whether a call or a reply is due.

    A call is that of the function, of those that are offered, that is called most often, with its
    most frequent arguments; a reply is the most frequent one. Of equally frequent ones, the first
    is taken.
    """
    reply = _most_frequent(training.replies)
    found = []
    for turn in turns:
        if turn.turn.role == "assistant":
            found.append(reply)
            continue
        names = _possible(turn, training)
        name = max(names, key=lambda each: len(training.calls.get(each, ())), default="")
        calls = [call.text() for call in training.calls.get(name, [])]
        found.append(_most_frequent(calls or ([Call(name).text()] if name else [])))
    return found


def _possible(turn: AskedTurn, training: TrainingTurns) -> list[str]:
    """The functions that may be called: those that are offered, or all that are known."""
    return [tool["name"] for tool in turn.tools] or list(training.calls)


def _most_frequent(texts: Sequence[str]) -> str:
    return Counter(texts).most_common(1)[0][0] if texts else ""
