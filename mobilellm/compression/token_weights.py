"""How often tokens are read and predicted, as weights of the rows of embeddings and heads."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.recipe import Batch
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of

# Tokens whose logits are computed at a time.
CHUNK_TOKENS = 512


class TokenWeights:
    """Row weights of the token tables of a model, measured on calibration text when first used.

    Args:
        model: the dense model.
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.
    """

    def __init__(self, model: MobileLLM, calibration: Sequence[Batch]) -> None:
        """Store the arguments; nothing is computed yet."""
        self.model, self.calibration = model, calibration

    @cached_property
    def frequency(self) -> Float[Tensor, "vocab"]:
        """Share of each token among the inputs, plus that of one occurrence; float64.

        An error in the embedding of a token disturbs the text as often as the token occurs. A token
        that does not occur in the calibration text keeps a weight.
        """
        size = self.model.config.vocab_size
        counts = torch.ones(size, dtype=torch.float64)
        for batch in self.calibration:
            counts += torch.bincount(batch["input_ids"].flatten().cpu(), minlength=size)
        return counts / counts.sum()

    @cached_property
    @torch.no_grad()
    def predicted(self) -> Float[Tensor, "vocab"]:
        """Root of the mean probability with which the model predicts each token; float64.

        The curvature of the cross entropy with respect to the logit of a token is p (1 − p), so an
        error in the row of a token that is never predicted costs little. The root of p measures
        better than p itself, which all but ignores rare tokens.
        """
        device = next(self.model.parameters()).device
        total = torch.zeros(self.model.config.vocab_size, dtype=torch.float64, device=device)
        tokens = 0
        for batch in self.calibration:
            inputs = {key: value.to(device) for key, value in batch.items()}
            ids, mask = inputs["input_ids"], attention_mask_of(inputs)
            hidden = self.model(ids, attention_mask=mask, logits=False).hidden.flatten(0, -2)
            for rows in hidden.split(CHUNK_TOKENS):
                total += self.model.unembed(rows).float().softmax(-1).sum(0)
            tokens += ids.numel()
        smallest = 1 / (tokens * len(total))
        return (total / tokens + smallest).sqrt()
