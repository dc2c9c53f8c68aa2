"""Prompts in rows of a dataset, and the rows with answers from which a smaller model learns."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.data.conversations.calls import find_calls
from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.layouts import read_conversation
from mobilellm.data.conversations.turns import Conversation, Turn
from mobilellm.data.tokenizers import Tokenizer
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.inference.prompts import tokens_of_text
from mobilellm.models import ModelConfig

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """How rows become prompts, and answers become rows.

    Without `template`, a row has `prompt` (text or messages), or a conversation in one of the
    layouts of data=conversations, of which the turns after the last one of the user are left out.
    """

    template: str | None = None
    """A text with the columns of a row in braces, `Question: {question}`; None: see above."""
    column: str | None = None
    """The column of the answers, which are added to the rows as they are; None: a new row has the
    prompt and its answer in a layout of data=conversations."""
    chat: bool = False
    """Whether prompts are messages of the user, written by the chat template of the model."""
    system: str | None = None
    """Message of the system before those prompts; None: there is none."""

    def tokens(self, row: Row, place: str, config: ModelConfig, tokenizer: Tokenizer) -> list[int]:
        """The tokens of the prompt of a row.

        Raises:
            ValueError: the row has no prompt, or has the column of the answers already, or see
                `ChatFormat` and `read_conversation`.
        """
        if self.column is not None and self.column in row:
            raise ValueError(
                f"{place} has the column {self.column} already, which is not overwritten; give "
                "another name with --column"
            )
        conversation = self._conversation(row, place)
        if self.chat:
            form = ChatFormat(tokenizer=tokenizer)
            messages = [message for message, _ in form.messages(conversation)]
            text = form.render(messages, conversation, begins_answer=True)
            return tokenizer.encode_rendered(text)
        first, *others = conversation.turns
        if others:
            raise ValueError(f"{place} has several messages, which only --chat can answer")
        ids = with_tokenizer_ids(config, tokenizer)
        return tokens_of_text(ids, tokenizer, first.text)

    def answered(self, row: Row, place: str, answer: str) -> dict[str, Any]:
        """The row with its answer."""
        if self.column is not None:
            return {**row, self.column: answer}
        conversation = self._conversation(row, place)
        if len(conversation.turns) == 1 and not conversation.tools:
            return {"prompt": conversation.turns[0].text, "completion": answer}
        # A call is what a parser says, as in the conversations that models are trained on.
        is_call = bool(conversation.tools) and bool(find_calls(answer))
        added = Turn(role="parser" if is_call else "assistant", text=answer)
        turns = (*conversation.turns, added)
        return Conversation(turns=turns, tools=conversation.tools).record()

    def _conversation(self, row: Row, place: str) -> Conversation:
        """The prompt as a conversation that ends with a turn of the user or of a tool."""
        if self.template is not None:
            found = Conversation(turns=(Turn(role="user", text=self._filled(row, place)),))
        elif "prompt" in row:
            found = read_conversation(
                {**row, "completion": row.get("completion") or ""}, "prompt_completion", place
            )
        else:
            found = read_conversation(row, "auto", place)
        turns = list(found.turns)
        while turns and turns[-1].is_trained:
            turns.pop()
        if not turns or turns[-1].role == "system":
            raise ValueError(f"{place} has no message of a user to answer; remove the row")
        if self.system is not None and turns[0].role != "system":
            turns.insert(0, Turn(role="system", text=self.system))
        return Conversation(turns=tuple(turns), tools=found.tools, place=place)

    def _filled(self, row: Row, place: str) -> str:
        values = {name: _as_text(value) for name, value in row.items()}
        try:
            return (self.template or "").format_map(values)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{place}: the prompt {self.template!r} cannot be filled in ({error}); its braces "
                f"may name the columns {', '.join(row) or '(none)'}"
            ) from None


def check_template(template: str) -> None:
    """Check that the braces of a prompt name columns.

    Raises:
        ValueError: they do not.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"--prompt={template!r}: {error}; write {{{{ for a brace") from None
    if not names or not all(names):
        raise ValueError(
            f"--prompt={template!r} must name at least one column of --data in braces, such as "
            "{question}"
        )


def _as_text(value: Any) -> str:
    """A value for the template; of a list the items, such as the answers to choose from."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return ", ".join(map(str, value)) if is_list else str(value)
