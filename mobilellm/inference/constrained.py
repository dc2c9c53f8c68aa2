"""Constrained decoding: only tokens that continue a valid JSON value of a schema may be chosen.

The grammar is that of the package llguidance (`pip install "mobilellm[constrained]"`).
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mobilellm.data.tokenizers import Tokenizer

if TYPE_CHECKING:
    import llguidance

# As `json.dumps` writes JSON. If any white space were allowed, small models would write it forever.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint:
    """The state of one text that must become a valid JSON value; made by `constrained`."""

    def __init__(
        self, matcher: "llguidance.LLMatcher", num_tokens: int, end_tokens: Sequence[int]
    ) -> None:
        """Begin an empty text."""
        self._matcher = matcher
        self._num_tokens = num_tokens
        self._end_tokens = tuple(end_tokens)
        self._is_ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a valid value, so that it may end here."""
        return self._is_ended or self._matcher.is_accepting()

    def allowed(self, size: int) -> Bool[Tensor, " size"]:
        """Whether each token may come next, (size,), on the CPU; at least one may.

        Args:
            size: number of logits. Tokens that the tokenizer does not have are not allowed.

        Raises:
            ValueError: the tokenizer cannot write what the schema requires next.
        """
        mask = torch.zeros(size, dtype=torch.bool)
        if not self._is_ended and not self._matcher.is_stopped():
            packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            bits = np.unpackbits(packed, bitorder="little", count=self._num_tokens)
            known = min(size, self._num_tokens)
            mask[:known] = torch.from_numpy(bits[:known].astype(bool))
        # llguidance lets every text end that nothing can continue, also an incomplete one.
        mask[list(self._end_tokens)] = self.is_complete
        if not mask.any():
            raise ValueError(
                "the tokenizer has no token for the character that the schema requires next; use a "
                "model whose tokenizer can write every byte"
            )
        return mask

    def mask(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """Return logits (..., vocab) with minus infinity for tokens that may not come next."""
        allowed = self.allowed(logits.shape[-1]).to(logits.device)
        return logits.masked_fill(~allowed, float("-inf"))

    def advance(self, token: int) -> None:
        """Continue after a token that was chosen.

        Raises:
            ValueError: the token may not come next.
        """
        if token in self._end_tokens and self.is_complete:
            self._is_ended = True
        elif self._is_ended or not self._matcher.consume_token(token):
            raise ValueError(
                f"token {token} may not come next; choose one that `allowed` returns True for"
            )


def constrained(
    tokenizer: Tokenizer,
    schema: Mapping[str, Any],
    *,
    end_tokens: Sequence[int] | None = None,
) -> Constraint:
    """Constrain a text to a JSON value of a schema, written as `json.dumps` does.

    For each token: choose it from `constraint.mask(logits)`, then call `constraint.advance(token)`,
    until an end token was chosen. `calls_schema` of `mobilellm.inference.functions` is the schema
    of calls of functions.

    Args:
        tokenizer: of either kind.
        schema: JSON schema.
        end_tokens: tokens that may end the text when it is complete; default: the end-of-text token
            of the tokenizer.

    Raises:
        ValueError: llguidance is not installed or does not support the schema, or there is no end
            token.
    """
    check_installed()
    import llguidance

    if end_tokens is None:
        end_tokens = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    ends = tuple(token for token in end_tokens if token < tokenizer.vocab_size)
    if not ends:
        raise ValueError(
            f"{tokenizer.path} has no end-of-text token, with which a constrained text ends; give "
            "end_tokens"
        )
    matcher = llguidance.LLMatcher(_vocabulary(tokenizer, ends), _grammar(schema), log_level=0)
    if matcher.is_error():
        reason = matcher.get_error().partition("\n")[0]
        raise ValueError(f"the schema cannot constrain a text ({reason}); change the schema")
    return Constraint(matcher, tokenizer.vocab_size, ends)


def check_installed() -> None:
    """Check that the packages of the extra `constrained` are installed, without importing them.

    Raises:
        ValueError: one is missing.
    """
    for name in ("llguidance", "jsonschema"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"functions and schemas need the package {name}, which is not installed; install "
                "it with pip install 'mobilellm[constrained]'"
            )


def _grammar(schema: Mapping[str, Any]) -> str:
    import llguidance

    text = json.dumps(schema, allow_nan=False)
    return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_JSON_STYLE)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, end_tokens: tuple[int, ...]) -> "llguidance.LLTokenizer":
    """The tokenizer for llguidance, which needs the bytes of each token."""
    import llguidance

    # A token without text never continues a value. llguidance refuses empty tokens, so these get
    # names, and are marked as special.
    texts = tokenizer.token_bytes
    special = [token for token, text in enumerate(texts) if not text]
    names = [text or f"<special_{token}>".encode() for token, text in enumerate(texts)]

    source = _Source(
        tokenizer,
        eos_token_id=end_tokens[0],
        bos_token_id=tokenizer.bos_id,
        tokens=names,
        special_token_ids=sorted({*special, *end_tokens}),
    )
    wrapper = llguidance.TokenizerWrapper(source)
    return llguidance.LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=list(end_tokens))


class _Source(SimpleNamespace):
    """A tokenizer as llguidance reads it: it has attributes, and its call encodes bytes.

    llguidance encodes text that the grammar leaves no choice for, and allows only its first token.
    """

    def __init__(self, tokenizer: Tokenizer, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._tokenizer = tokenizer
        self._by_text = {text: token for token, text in enumerate(tokenizer.token_bytes) if text}
        self._longest = max(map(len, self._by_text), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of exactly this text."""
        # SentencePiece may put a space before the text. After a line break, it does not.
        for before in (b"", b"\n"):
            tokens = self._without_begin(self._tokenizer.encode(before + text), len(text))
            if self._text_of(tokens) == text:
                return tokens
        return self._longest_tokens(text)

    def _text_of(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._tokenizer.token_bytes[token] for token in tokens)

    def _without_begin(self, tokens: list[int], num_bytes: int) -> list[int]:
        """The last tokens, with at least so many bytes."""
        first = len(tokens)
        while first and num_bytes > 0:
            first -= 1
            num_bytes -= len(self._tokenizer.token_bytes[tokens[first]])
        return tokens[first:]

    def _longest_tokens(self, text: bytes) -> list[int]:
        """The longest token at each place."""
        tokens: list[int] = []
        place = 0
        while place < len(text):
            ends = range(min(len(text), place + self._longest), place, -1)
            end = next((end for end in ends if text[place:end] in self._by_text), None)
            if end is None:
                raise ValueError(f"the tokenizer has no token for {text[place : place + 1]!r}")
            tokens.append(self._by_text[text[place:end]])
            place = end
        return tokens
