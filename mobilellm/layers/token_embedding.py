"""The dense token embedding, whose parameter also serves as a tied output head."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """A table (vocab_size, hidden_size) with a look-up and an output projection.

    A tied output head calls `unembed`, so that no tensor needs two names.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        """Allocate the table; `initialize_` draws its values."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up rows of the table: token ids (...) -> (..., hidden)."""
        return F.embedding(input_ids, self.weight)

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply by every row of the table: (..., hidden) -> logits (..., vocab)."""
        return F.linear(hidden, self.weight)

    def materialize(self) -> Float[Tensor, "vocab hidden"]:
        """The table itself."""
        return self.weight

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return ", ".join(map(str, self.weight.shape))
