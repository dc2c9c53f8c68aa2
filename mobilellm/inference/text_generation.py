"""Continues a text or a conversation with a model and its tokenizer."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch

from mobilellm.data.tokenizers import Message, Tokenizer
from mobilellm.data.tokenizers.answer import decode_known, read_answer
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.inference.end_tokens import end_tokens
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
    eos = ids.eos_token_id
    rows = generate(model, torch.tensor([tokens]), max_new_tokens, eos_token_id=eos, **sampling)
    added = rows[0, len(tokens) :].tolist()
    added = added[: added.index(eos)] if eos in added else added
    if tokens[0] == ids.bos_token_id:
        tokens = tokens[1:]
    return decode_known(tokenizer, tokens + added)


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
    ends = end_tokens(ids, tokenizer)
    rows = generate(model, torch.tensor([tokens]), max_new_tokens, eos_token_id=ends, **sampling)
    return read_answer(tokenizer, rows[0, len(tokens) :].tolist(), ends).text
