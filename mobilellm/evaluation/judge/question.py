"""What a judge is asked, and how its verdict is read.

Source of the setting: Zheng et al. 2023, "Judging LLM-as-a-judge with MT-bench and Chatbot Arena",
arXiv:2306.05685: pairs in both orders, because judges prefer one position.
"""

import re
from collections.abc import Sequence
from typing import Literal

from mobilellm.data.conversations.turns import Turn

Verdict = Literal["A", "B", "tie"]
Messages = list[dict[str, str]]

INSTRUCTIONS = (
    "You compare two answers, A and B, to the last message of a conversation. Judge which of them "
    "helps the user more: whether it is correct, complete, to the point and well written. A longer "
    "answer is not better for its length, and the order of the two means nothing. Give your "
    "reasons in at most three sentences. Then end with a line that is [[A]] if answer A is better, "
    "[[B]] if answer B is better, or [[tie]] if neither is."
)
_VERDICT = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)
_NAMES: dict[str, Verdict] = {"a": "A", "b": "B", "tie": "tie"}


def question(turns: Sequence[Turn], first: str, second: str) -> Messages:
    """The messages for a judge.

    Args:
        turns: the conversation up to the message that is answered.
        first: answer A.
        second: answer B.
    """
    said = "\n\n".join(f"{turn.role}: {turn.text}" for turn in turns)
    text = (
        f"# Conversation\n\n{said}\n\n# Answer A\n\n{first or '(empty)'}\n\n"
        f"# Answer B\n\n{second or '(empty)'}"
    )
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": text}]


def read_verdict(reply: str) -> Verdict | None:
    """The last verdict in the reply of a judge; None if it has none."""
    found = _VERDICT.findall(reply)
    return _NAMES[found[-1].lower()] if found else None
