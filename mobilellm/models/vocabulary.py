"""Adds tokens to the vocabulary of a model."""

from dataclasses import replace

import torch
from torch import Tensor

from mobilellm.models.mobilellm import MobileLLM

_TABLES = ("embedding", "head")


def with_added_tokens(
    model: MobileLLM, *, used_tokens: int, num_tokens: int, eos_token_id: int
) -> MobileLLM:
    """A model with rows for more tokens in its embedding and, if it is not tied, in its head.

    New rows are the mean of the rows of the known tokens: a new token is then about as likely as an
    average one, and the probabilities of the others hardly change. A tied table stays tied.

    Args:
        model: is not changed.
        used_tokens: number of tokens of the tokenizer before. The table may have more rows, which
            the new tokens then take.
        num_tokens: number of tokens with the new ones.
        eos_token_id: end-of-text token of the new model.

    Raises:
        ValueError: the embedding or the head is not a dense matrix.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".
    """
    compressed = [name for name in _TABLES if name in model.config.layer_shapes]
    if compressed:
        raise ValueError(
            f"the {compressed[0]} of the model is compressed, and tokens can only be added to a "
            "dense matrix; add them before the model is compressed"
        )
    size = max(model.config.vocab_size, num_tokens)
    config = replace(model.config, vocab_size=size, eos_token_id=eos_token_id)
    state = {
        name: _with_rows(tensor, size, used_tokens, num_tokens)
        if name.partition(".")[0] in _TABLES
        else tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    with torch.device("meta"):
        larger = MobileLLM(config)
    larger.load_state_dict(state, assign=True)
    return larger.train(model.training)


def _with_rows(table: Tensor, size: int, used: int, end: int) -> Tensor:
    """The table with `size` rows, of which those from `used` to `end` are the mean of the first."""
    rows = table.new_zeros(size, *table.shape[1:])
    rows[: len(table)] = table
    rows[used:end] = table[:used].float().mean(0).to(table.dtype)
    return rows
