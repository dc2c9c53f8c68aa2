"""Continues a text or a conversation with a model and its tokenizer."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch

from mobilellm.data.tokenizers import Message, Tokenizer
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.inference.prompts import tokens_of_chat, tokens_of_text
from mobilellm.models import MobileLLM
from mobilellm.models.generation import generate


class Sampling(TypedDict, total=False):
    """How tokens are chosen: arguments of `mobilellm.models.generation.generate`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None


def continue_text(
    model: MobileLLM,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    **sampling: Unpack[Sampling],
) -> str:
    """Return a prompt and its continuation, up to the end-of-text token of the tokenizer.

    Args:
        model: it is given its `bos_token_id`, if its tokenizer adds that, and then the prompt.
        tokenizer: of the model.
        prompt: text to continue; may be empty.
        max_new_tokens: the most tokens to add.
        sampling: settings of `mobilellm.models.generation.generate`.

    Raises:
        ValueError: the prompt cannot be encoded as UTF-8, the tokens exceed the context length, or
            a setting is out of range.
    """
    ids = with_tokenizer_ids(model.config, tokenizer)
    tokens = tokens_of_text(ids, tokenizer, prompt)
    added = _new_tokens(model, tokens, ids.eos_token_id, max_new_tokens, **sampling)
    if tokens[0] == ids.bos_token_id:
        tokens = tokens[1:]
    return _decode(tokenizer, tokens + added)


def answer(
    model: MobileLLM,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    max_new_tokens: int,
    **sampling: Unpack[Sampling],
) -> str:
    """Return the assistant's next message of a conversation.

    Args:
        model: it is given the conversation as its chat template writes it.
        tokenizer: of the model, with a chat template.
        messages: the conversation; each message has a `role` and a `content`.
        max_new_tokens: the most tokens of the answer.
        sampling: settings of `mobilellm.models.generation.generate`.

    Raises:
        ValueError: there is no chat template, it refuses the messages, or see `continue_text`.
    """
    ids = with_tokenizer_ids(model.config, tokenizer)
    tokens = tokens_of_chat(tokenizer, messages)
    added = _new_tokens(model, tokens, ids.eos_token_id, max_new_tokens, **sampling)
    return _decode(tokenizer, added).strip()


def _new_tokens(
    model: MobileLLM,
    prompt: Sequence[int],
    eos: int,
    max_new_tokens: int,
    **sampling: Unpack[Sampling],
) -> list[int]:
    """The generated tokens before the end of the text."""
    rows = generate(model, torch.tensor([prompt]), max_new_tokens, eos_token_id=eos, **sampling)
    tokens = rows[0, len(prompt) :].tolist()
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


def _decode(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    # A padded embedding has more rows than the tokenizer has tokens.
    return tokenizer.decode([token for token in tokens if token < tokenizer.vocab_size])
