"""The token embedding, whose one parameter is also the output head if the two are tied."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellm.layers.compressed import FactorizedEmbedding, MaskedEmbedding, empty_linear
from mobilellm.layers.shapes import FactorizedShape, MaskedShape
from mobilellm.models.config import ModelConfig


class TokenEmbedding(nn.Module):
    """A table (vocab_size, hidden_size) that embeds and unembeds: tying needs no aliased tensor."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        """Allocate the table; `initialize_` draws its values."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Rows of the table: token ids (batch, seq) -> (batch, seq, hidden)."""
        return F.embedding(input_ids, self.weight)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Product with every row: (..., hidden) -> logits (..., vocab)."""
        return F.linear(hidden, self.weight)

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return ", ".join(map(str, self.weight.shape))


def make_token_table(config: ModelConfig) -> TokenEmbedding | FactorizedEmbedding | MaskedEmbedding:
    """The token embedding that `config` describes, with memory but without values."""
    shape = config.layer_shape("embedding")
    if isinstance(shape, FactorizedShape):
        return FactorizedEmbedding.empty(shape)  # pyright: ignore[reportReturnType]
    if isinstance(shape, MaskedShape):
        return MaskedEmbedding.empty((config.vocab_size, config.hidden_size))  # pyright: ignore
    return TokenEmbedding(config.vocab_size, config.hidden_size)


def make_head(config: ModelConfig) -> nn.Module | None:
    """The output head, with memory but without values; None if it is tied to the embedding."""
    if config.tie_word_embeddings:
        return None
    return empty_linear((config.vocab_size, config.hidden_size), config.layer_shape("head"))
