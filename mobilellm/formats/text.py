"""Text in, text out: a model with its SentencePiece tokenizer."""

from pathlib import Path

import torch

from mobilellm.data.tokenizer import load_tokenizer
from mobilellm.files import TOKENIZER_FILE
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.models import MobileLLM
from mobilellm.models.generation import generate


def continue_text(
    model: MobileLLM,
    tokenizer: str | Path | None,
    prompt: str,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> str:
    """Give the prompt and its continuation, up to the end of the text.

    Args:
        model: starts from its `bos_token_id`, then the prompt; its tokenizer's end of text ends
            it.
        tokenizer: path of a SentencePiece model.
        prompt: may be empty.
        max_new_tokens: tokens to add at most.
        temperature: see `generate`, as the rest.
        top_k: see `generate`.
        top_p: see `generate`.
        seed: see `generate`.

    Raises:
        FileNotFoundError: no tokenizer.
        ValueError: it is none, or has more tokens than the model rows; a prompt that is not UTF-8,
            a setting out of range.
    """
    if tokenizer is None:
        raise FileNotFoundError(f"tokenizer {TOKENIZER_FILE} does not exist; give --tokenizer PATH")
    processor = load_tokenizer(Path(tokenizer), model.config.vocab_size, name="tokenizer ")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the prompt is not UTF-8 text ({error.object[error.start : error.end]!r} at "
            f"character {error.start}); convert it, e.g. with iconv"
        ) from None
    ids = with_tokenizer_ids(model.config, processor)
    begin = [ids.bos_token_id, *processor.encode(prompt)]
    tokens = generate(
        model, torch.tensor([begin]), max_new_tokens, eos_token_id=ids.eos_token_id,
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )[0].tolist()  # fmt: skip
    end = next(
        (i for i in range(len(begin), len(tokens)) if tokens[i] == ids.eos_token_id), len(tokens)
    )
    # Rows beyond the tokenizer's tokens pad the table and stand for no text.
    return processor.decode([token for token in tokens[1:end] if token < processor.vocab_size()])
