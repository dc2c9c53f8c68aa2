"""The messages of a conversation as the tokens of a prompt that fits into the context."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from mobilellm.data.conversations.calls import find_calls
from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.turns import Conversation, Turn
from mobilellm.data.tokenizers import Message, Tokenizer
from mobilellm.inference.functions import Function
from mobilellm.inference.prompts import checked_text, tokens_of_text
from mobilellm.models import ModelConfig

# Half of the context stays free for an answer, as long as whole old turns can be dropped for it.
_SHARE_FOR_ANSWER = 0.5


class PromptWriter:
    """Writes conversations for one model.

    With a chat template, messages are written by it. Without one, the model only continues text:
    the contents of all messages are joined, and nothing is put between them.
    """

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, functions: Sequence[Function] = ()
    ) -> None:
        """Check what the model can do.

        Args:
            config: of the model, with the tokens of its tokenizer.
            tokenizer: of the model.
            functions: that the model may call. They are written as in the training data of
                `data=conversations`: by the chat template, or in the message of the system if the
                template does not write functions.

        Raises:
            ValueError: there are functions, and the tokenizer has no chat template.
        """
        self._config = config
        self._tokenizer = tokenizer
        self.is_plain = tokenizer.settings.template is None
        """Whether the model only continues text."""
        if self.is_plain and functions:
            raise ValueError(
                f"{tokenizer.path.parent} has no chat template, so that functions cannot be "
                "described to the model; use a model that was trained for conversations"
            )
        self._tools = tuple(function.definition for function in functions)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation up to where the next answer begins.

        Raises:
            ValueError: the chat template refuses the messages, or a text is not UTF-8.
        """
        if self.is_plain:
            text = "".join(message["content"] for message in messages)
            return tokens_of_text(self._config, self._tokenizer, text)
        conversation = Conversation(turns=tuple(map(self._turn, messages)), tools=self._tools)
        written = [message for message, _ in self._form.messages(conversation)]
        text = self._form.render(written, conversation, begins_answer=True)
        return self._tokenizer.encode_rendered(text)

    def _turn(self, message: Message) -> Turn:
        """A message as training has it: an answer that calls functions is a parser's turn."""
        role, text = message["role"], checked_text(message["content"])
        calls = tuple(find_calls(text)) if self._tools and role == "assistant" else ()
        if calls and all(isinstance(call.arguments, Mapping) for call in calls):
            return Turn(role="parser", text=text, calls=calls)
        return Turn(role=role, text=text)

    @cached_property
    def _form(self) -> ChatFormat:
        return ChatFormat(tokenizer=self._tokenizer)

    def fitting(
        self, messages: Sequence[Message], max_new_tokens: int
    ) -> tuple[list[Message], list[int], int]:
        """Drop the oldest turns of a conversation until an answer fits into the context.

        A turn is a message of the user and all messages up to the next one. The message of the
        system and the last turn are kept.

        Args:
            messages: the conversation.
            max_new_tokens: the most tokens of the answer. Turns are dropped to make room for all of
                them, but for at most half of the context.

        Returns:
            The messages that are kept, their tokens, and the number of turns that were dropped.

        Raises:
            ValueError: the rest alone fills the context, or see `tokens`.
        """
        context = self._config.max_position_embeddings
        wanted = max(1, min(max_new_tokens, int(context * _SHARE_FOR_ANSWER)))
        kept, dropped = list(messages), 0
        tokens = self.tokens(kept)
        while len(tokens) + wanted > context:
            starts = [place for place, one in enumerate(kept) if one["role"] == "user"]
            if len(starts) < 2:
                break
            del kept[starts[0] : starts[1]]
            dropped += 1
            tokens = self.tokens(kept)
        if len(tokens) >= context:
            raise ValueError(
                f"the message makes a prompt of {len(tokens)} tokens, which leaves no room for an "
                f"answer within max_position_embeddings={context}; shorten it"
            )
        return kept, tokens, dropped
