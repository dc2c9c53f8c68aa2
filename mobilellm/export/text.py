"""Text in, text out: a model with its SentencePiece tokenizer."""

from pathlib import Path

import torch

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
        model: starts from its `bos_token_id`, then the prompt.
        tokenizer: path of a SentencePiece model.
        prompt: may be empty.
        max_new_tokens: tokens to add at most.
        temperature: see `generate`, as the rest.
        top_k: see `generate`.
        top_p: see `generate`.
        seed: see `generate`.

    Raises:
        FileNotFoundError: no tokenizer.
        ValueError: it has more words than the model, or a setting is out of range.
    """
    from sentencepiece import SentencePieceProcessor

    if tokenizer is None or not Path(tokenizer).is_file():
        raise FileNotFoundError(
            f"tokenizer {tokenizer or 'tokenizer.model'} does not exist; give --tokenizer PATH"
        )
    processor = SentencePieceProcessor(model_file=str(tokenizer))
    if processor.vocab_size() > model.config.vocab_size:
        raise ValueError(
            f"{tokenizer} has {processor.vocab_size()} words, more than the model's "
            f"vocab_size={model.config.vocab_size}; give the model's own tokenizer"
        )
    begin = [model.config.bos_token_id, *processor.encode(prompt)]
    tokens = generate(
        model, torch.tensor([begin]), max_new_tokens,
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )[0].tolist()  # fmt: skip
    end = next(
        (i for i in range(len(begin), len(tokens)) if tokens[i] == model.config.eos_token_id),
        len(tokens),
    )
    return processor.decode(tokens[1:end])
