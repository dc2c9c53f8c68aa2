"""Continues a text with a model and its SentencePiece tokenizer."""

from typing import TYPE_CHECKING

import torch

from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.models import MobileLLM
from mobilellm.models.generation import generate

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


def continue_text(
    model: MobileLLM,
    tokenizer: "SentencePieceProcessor",
    prompt: str,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> str:
    """Return a prompt and its continuation, up to the end-of-text token of the tokenizer.

    Args:
        model: it is given its `bos_token_id` and then the prompt.
        tokenizer: of the model.
        prompt: text to continue; may be empty.
        max_new_tokens: the most tokens to add.
        temperature: 0 is greedy decoding; see `mobilellm.models.generation.generate`.
        top_k: see `generate`.
        top_p: see `generate`.
        seed: of the sampling; see `generate`.

    Raises:
        ValueError: the prompt cannot be encoded as UTF-8, the tokens exceed the context length, or
            a setting is out of range.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the prompt is not UTF-8 text ({error.object[error.start : error.end]!r} at "
            f"character {error.start}); convert it, e.g. with iconv"
        ) from None
    ids = with_tokenizer_ids(model.config, tokenizer)
    begin = [ids.bos_token_id, *tokenizer.encode(prompt)]
    tokens = generate(
        model, torch.tensor([begin]), max_new_tokens, eos_token_id=ids.eos_token_id,
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )[0].tolist()  # fmt: skip
    end = next(
        (i for i in range(len(begin), len(tokens)) if tokens[i] == ids.eos_token_id), len(tokens)
    )
    # A padded embedding has more rows than the tokenizer has tokens.
    return tokenizer.decode([token for token in tokens[1:end] if token < tokenizer.vocab_size()])
