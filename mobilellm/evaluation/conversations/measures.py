"""Measures of answers to the turns of conversations.

As for the API calling of MobileLLM (Liu et al. 2024, arXiv:2402.14905, table 6): exact match of the
function's name (intent) and of the whole call (structure), and Rouge of the replies.
"""

from collections.abc import Callable, Sequence

from mobilellm.data.conversations.calls import Call
from mobilellm.evaluation.conversations.answers import Tools
from mobilellm.evaluation.conversations.asked_turns import AskedTurn
from mobilellm.evaluation.conversations.call_matching import are_equal, calls_in, have_equal_names
from mobilellm.evaluation.conversations.names import SEEN, UNSEEN
from mobilellm.evaluation.ratios import RatioSums
from mobilellm.evaluation.rouge import rouge_1, rouge_l


class TurnMeasures:
    """Sums the measures of answers over the turns of dialogues."""

    def __init__(self, dialogues: int, trained_functions: frozenset[str] | None) -> None:
        """Begin without answers.

        Args:
            dialogues: number of dialogues, which are the documents of the sums.
            trained_functions: names of the functions in the training data; None: unknown.
        """
        self.sums = RatioSums(dialogues)
        self._trained = trained_functions

    def add_answers(
        self,
        turns: Sequence[AskedTurn],
        answers: Sequence[str],
        find_problem: Callable[[Call, Tools], str | None],
    ) -> None:
        """Compare answers with what the conversations have.

        Args:
            turns: what was to be answered.
            answers: one for each turn.
            find_problem: says what is wrong with a call of functions; None if it is valid.
        """
        for turn, answer in zip(turns, answers, strict=True):
            given = calls_in(answer)
            if turn.calls_functions:
                problems = [find_problem(call, turn.tools) for call in given]
                values = {
                    "intent": have_equal_names(turn.turn.calls, given),
                    "structure": are_equal(turn.turn.calls, given),
                    "valid_call": bool(given) and not any(problems),
                }
                for name, value in values.items():
                    self._add(name, turn, value)
            elif turn.is_reply:
                self.sums.add("rouge_1", turn.dialogue, rouge_1(turn.turn.text, answer))
                self.sums.add("rouge_l", turn.dialogue, rouge_l(turn.turn.text, answer))
                if turn.tools:
                    self.sums.add("needless_call", turn.dialogue, bool(given))

    def add_losses(self, turns: Sequence[AskedTurn], nats: Sequence[float]) -> None:
        """Add the nats of each turn, which count per token of their role."""
        for turn, value in zip(turns, nats, strict=True):
            self._add(f"{turn.turn.role}_nats_per_token", turn, value, len(turn.target))

    def _add(self, name: str, turn: AskedTurn, above: float, below: float = 1.0) -> None:
        self.sums.add(name, turn.dialogue, above, below)
        if self._trained is not None and turn.calls_functions:
            called = {call.name for call in turn.turn.calls}
            end = SEEN if called <= self._trained else UNSEEN
            self.sums.add(name + end, turn.dialogue, above, below)
