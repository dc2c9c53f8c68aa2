"""A conversation with a saved model: answers arrive piece by piece, and the cache is kept."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from mobilellm.data.tokenizers import Message
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.inference.constrained import Constraint, constrained
from mobilellm.inference.conversation import PromptWriter
from mobilellm.inference.end_tokens import end_tokens
from mobilellm.inference.functions import Function
from mobilellm.inference.loaded_model import LoadedModel
from mobilellm.inference.text_generation import Sampling
from mobilellm.inference.text_stream import TextStream
from mobilellm.inference.token_stream import TokenStream
from mobilellm.models.generation import check_sampling


@dataclass
class Answer:
    """An answer of a model, so far or complete."""

    kept_messages: list[Message]
    """The messages that the model has read."""
    dropped_turns: int
    """Oldest turns that did not fit into the context."""
    prompt_tokens: int
    """Tokens of the whole prompt."""
    computed_tokens: int = 0
    """Tokens of the prompt that were computed; the others were in the cache."""
    text: str = ""
    new_tokens: int = 0
    prompt_seconds: float = 0.0
    """Seconds until the first token, including the packing of weights for the first answer."""
    decode_seconds: float = 0.0
    """Seconds for all tokens after the first."""
    end: Literal["stopped", "ended", "limit", "context"] = "stopped"
    """Whether the caller stopped reading, or the model ended the answer, or `max_new_tokens` or the
    context length did."""

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the tokens after the first; None if there are none."""
        if self.new_tokens < 2 or self.decode_seconds <= 0:
            return None
        return (self.new_tokens - 1) / self.decode_seconds


class ChatSession:
    """Answers messages with a model, and keeps the keys and values of the conversation.

    Each call is given the whole conversation; only the tokens that differ from the last one are
    computed. It is not safe to use from several threads at once.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        functions: Sequence[Function] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a conversation.

        Args:
            loaded: from `mobilellm.inference.loaded_model.load`.
            functions: that the model may call.
            schema: JSON schema of every answer, such as `calls_schema(functions)`; None: answers
                are free text.

        Raises:
            FileNotFoundError: the model has no tokenizer.
            ValueError: there are functions and no chat template, or the schema is not supported.
        """
        tokenizer = loaded.required_tokenizer()
        config = with_tokenizer_ids(loaded.config, tokenizer)
        self._tokenizer = tokenizer
        self._context = config.max_position_embeddings
        self._writer = PromptWriter(config, tokenizer, functions)
        self._stream = TokenStream(loaded.model)
        self.end_tokens = end_tokens(config, tokenizer)
        """The tokens that end an answer."""
        self._make_constraint: Callable[[], Constraint | None] = lambda: None
        if schema is not None:
            self._make_constraint = lambda: constrained(
                tokenizer, schema, end_tokens=self.end_tokens
            )
            self._make_constraint()  # reports an unsupported schema before the first answer

    @property
    def is_plain(self) -> bool:
        """Whether the model has no chat template, and only continues text."""
        return self._writer.is_plain

    def reset(self) -> None:
        """Forget the conversation in the cache."""
        self._stream.reset()

    def reply(
        self,
        messages: Sequence[Message],
        max_new_tokens: int = 512,
        **sampling: Unpack[Sampling],
    ) -> tuple[Answer, Iterator[str]]:
        """Begin an answer to a conversation.

        Args:
            messages: the conversation; `role` is `system`, `user`, `assistant` or `tool`.
            max_new_tokens: the most tokens of the answer; fewer if the context ends before.
            sampling: settings of `mobilellm.models.generation.generate`. With a seed, the same
                conversation has the same answer.

        Returns:
            The answer, which is filled while the pieces of its text are read, and these pieces.

        Raises:
            ValueError: a setting is out of range, the chat template refuses the messages, or the
                last turn alone does not fit into the context.
        """
        check_sampling(max_new_tokens, **{"temperature": 0.0, **sampling})  # pyright: ignore[reportArgumentType]
        kept, tokens, dropped = self._writer.fitting(messages, max_new_tokens)
        answer = Answer(kept, dropped, len(tokens))
        return answer, self._pieces(answer, tokens, max_new_tokens, sampling)

    def _pieces(
        self, answer: Answer, prompt: list[int], max_new_tokens: int, sampling: Sampling
    ) -> Iterator[str]:
        """Generate an answer, fill `answer`, and yield the pieces of its text."""
        room = min(max_new_tokens, self._context - len(prompt))
        text = TextStream(self._tokenizer)
        tokens = self._stream.generate(
            prompt, room, end_tokens=self.end_tokens, constraint=self._make_constraint(), **sampling
        )
        began = time.perf_counter()
        for token in tokens:
            now = time.perf_counter()
            if answer.new_tokens == 0:
                answer.computed_tokens = self._stream.num_computed
                answer.prompt_seconds, began = now - began, now
            answer.new_tokens += 1
            answer.decode_seconds = now - began
            piece = text.add(token)
            answer.text = text.text
            if piece:
                yield piece
        if answer.new_tokens == 0:
            answer.computed_tokens = self._stream.num_computed
            answer.prompt_seconds = time.perf_counter() - began
        answer.end = "ended"
        if answer.new_tokens == room:
            answer.end = "limit" if room == max_new_tokens else "context"
        rest = text.end()
        answer.text = text.text
        if rest:
            yield rest
