"""A model with its tokenizer and its protocol of special tokens, which scores texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.evaluation.continuations import ContinuationScore, score_continuations
from mobilellm.models import MobileLLM

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """What a model needs to read text as it did in training.

    Args:
        name: of the model, for tables.
        model: in evaluation mode.
        tokenizer: see `mobilellm.data.tokenizers.Tokenizer`.
        adds_bos: whether every text that the model reads begins with the begin-of-text token.
        is_chat: whether prompts are rendered by the tokenizer's chat template. Rendered prompts
            contain their special tokens, and none is added.
        batch_tokens: the most tokens per forward pass; None: what suits the device.
    """

    name: str
    model: MobileLLM
    tokenizer: Any
    adds_bos: bool
    is_chat: bool = False
    batch_tokens: int | None = None

    @property
    def begin(self) -> tuple[int, ...]:
        """The tokens that begin every text: the begin-of-text token, or none."""
        return (self.bos_id,) if self.adds_bos and not self.is_chat else ()

    @property
    def bos_id(self) -> int:
        """The begin-of-text token of the tokenizer, or of the model if it has none."""
        found = self.tokenizer.bos_id
        return self.model.config.bos_token_id if found is None else found

    @property
    def eos_id(self) -> int:
        """The end-of-text token of the tokenizer, or of the model if it has none."""
        found = self.tokenizer.eos_id
        return self.model.config.eos_token_id if found is None else found

    @property
    def ends_documents(self) -> bool:
        """Whether joined documents end with the end-of-text token.

        They always do without a begin-of-text token, which would separate them.
        """
        return not self.begin or self.tokenizer.adds_eos is True

    @property
    def start(self) -> int:
        """The token after which a text without context begins.

        Without a begin-of-text token it is the end-of-text token, which stands between documents.
        """
        return self.bos_id if self.adds_bos else self.eos_id

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads at once."""
        return self.model.config.max_position_embeddings

    @property
    def protocol(self) -> str:
        """How texts begin, in words."""
        if self.is_chat:
            return "prompts in the chat template"
        if self.adds_bos:
            return f"every text begins with the begin-of-text token ({self.bos_id})"
        return f"no begin-of-text token; an empty context is the end-of-text token ({self.eos_id})"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without the tokens that begin it."""
        if self.is_chat:
            return [self.tokenizer.encode_rendered(text) for text in texts]
        return self.tokenizer.encode_batch(list(texts))

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], advance: Advance | None = None
    ) -> list[ContinuationScore]:
        """Score continuations of prompts, both given as tokens; see `score_continuations`."""
        return score_continuations(
            self.model, pairs, batch_tokens=self.batch_tokens, advance=advance
        )


@dataclass(frozen=True)
class EncodedPairs:
    """Contexts and continuations as tokens."""

    pairs: list[tuple[list[int], list[int]]]
    """Prompt and continuation, at least one token each."""
    truncated: int
    """Number of contexts of which the begin was left out, since they were too long."""


def encode_pairs(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> EncodedPairs:
    """Encode contexts with their continuations, as the evaluation harness does.

    The continuation is what remains of the tokens of both together after as many tokens as the
    context alone has; spaces at the end of the context count as part of the continuation. A context
    that is too long loses tokens on the left, but not the begin-of-text token. An empty context is
    the token after which texts begin.

    Args:
        model: with its tokenizer.
        pairs: context and continuation of each.

    Raises:
        ValueError: a continuation is empty, merges into the last token of its context, or does not
            fit into the context of the model.
    """
    moved = [_move_spaces(context, continuation) for context, continuation in pairs]
    wholes = model.encode([context + continuation for context, continuation in moved])
    contexts = list(dict.fromkeys(context for context, _ in moved))
    own = dict(zip(contexts, model.encode(contexts), strict=True))
    encoded, truncated = [], 0
    for (context, continuation), whole in zip(moved, wholes, strict=True):
        alone = own[context] if context else []
        prompt, rest = [*model.begin, *alone], whole[len(alone) :]
        _check_continuation(rest, continuation, model)
        room = model.context_length + 1 - len(rest)
        if len(prompt) > room:
            begin = model.begin[:room]
            prompt = [*begin, *prompt[len(prompt) - room + len(begin) :]]
            truncated += 1
        encoded.append((prompt or [model.start], rest))
    return EncodedPairs(encoded, truncated)


def rolling_pairs(model: LanguageModel, text: str) -> list[tuple[list[int], list[int]]]:
    """Cut a text into prompts and continuations in which each token is predicted once.

    Every window begins with the begin-of-text token if the protocol says so; otherwise with the
    last token of the window before it, and the first one with the token after which texts begin.
    The last window reads as many tokens as the others, of which it predicts only the new ones.
    """
    (tokens,) = model.encode([text])
    size, begin = model.context_length, model.begin
    found = []
    for first in range(0, len(tokens), size):
        end = min(first + size, len(tokens))
        start = max(0, end - size - 1 + len(begin))
        before = [*begin, *tokens[start:first]]
        found.append((before or [model.start], tokens[first:end]))
    return found


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Move the spaces at the end of a context to the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _check_continuation(rest: Sequence[int], continuation: str, model: LanguageModel) -> None:
    if not rest:
        raise ValueError(
            f"the answer {continuation!r} adds no token to its question; use a tokenizer that does "
            "not merge the two, or remove the row"
        )
    if len(rest) > model.context_length:
        raise ValueError(
            f"the answer {continuation[:40]!r}… has {len(rest)} tokens, more than "
            f"max_position_embeddings={model.context_length} of {model.name}; use a model with a "
            "longer context, or remove the row"
        )
