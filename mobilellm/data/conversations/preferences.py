"""Reads preferences: a prompt with a better and a worse answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from mobilellm.data.conversations.layouts import read_part, read_tools
from mobilellm.data.conversations.turns import Conversation, Turn

CHOSEN, REJECTED = "chosen", "rejected"


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two conversations that begin with the same prompt; only their answers are trained."""

    chosen: Conversation
    """With the better answer."""
    rejected: Conversation
    """With the worse answer."""

    @property
    def is_undecided(self) -> bool:
        """Whether both answers are the same, so that nothing can be learned."""
        return self.chosen.turns == self.rejected.turns


def read_preference(row: Mapping[str, Any], place: str) -> Preference:
    """Read a preference from a row with the columns `chosen`, `rejected` and `prompt`.

    Each of them is text or a list of messages. The lists in `chosen` and `rejected` may begin with
    the prompt, in which case the column `prompt` may be missing. What both have in common at the
    beginning belongs to the prompt.

    Args:
        row: its fields; None counts as missing. Functions may be in `tools`, and a system message
            in `system`.
        place: where the row is, for messages.

    Raises:
        ValueError: a column is missing or has the wrong type, there is no prompt, or an answer has
            no turn of the assistant or of a parser.
    """
    row = {name: value for name, value in row.items() if value is not None}
    prompt = read_part(row, "prompt", "user", place) if "prompt" in row else []
    system = read_part(row, "system", "system", place) if "system" in row else []
    chosen, rejected = (
        _with_prompt(read_part(row, name, "assistant", place), prompt)
        for name in (CHOSEN, REJECTED)
    )
    pairs = zip(chosen, rejected, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    # Equal answers, or one that continues the other, still have the prompt that is given.
    shorter = min(len(chosen), len(rejected))
    common = common if common < shorter or not prompt else len(prompt)
    if not common:
        raise ValueError(
            f"{place} has no prompt; add a column prompt, or begin {CHOSEN} and {REJECTED} with "
            "the same messages"
        )
    if chosen[0].role == "system":
        system = []
    tools = read_tools(row, place)
    found = [
        Conversation(
            turns=(*system, *turns), tools=tools, prompt_turns=len(system) + common, place=place
        )
        for turns in (chosen, rejected)
    ]
    for name, one in zip((CHOSEN, REJECTED), found, strict=True):
        if not any(map(one.trains, range(len(one.turns)))):
            raise ValueError(
                f"{place} has no turn of the assistant or of a parser in {name} after what both "
                "answers have in common; correct or remove the row"
            )
    return Preference(chosen=found[0], rejected=found[1])


def _with_prompt(turns: list[Turn], prompt: list[Turn]) -> list[Turn]:
    """All turns, of which the first may be the prompt already."""
    return turns if turns[: len(prompt)] == prompt else [*prompt, *turns]
