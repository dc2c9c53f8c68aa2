"""Validation loss of a language model: nats per token and bits per byte."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mobilellm.labels import IGNORE_INDEX
from mobilellm.losses.cross_entropy import token_losses
from mobilellm.models.attention_mask import attention_mask_of

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class ValidationResult:
    """Sums over tokens, from which the means follow."""

    nats: float
    """Sum of the cross entropy of all tokens with a label."""
    tokens: int
    """Number of tokens with a label."""
    text_bytes: int
    """Number of bytes of text of these tokens; 0 if the tokenizer is unknown."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text, which is comparable between tokenizers; None if unknown."""
        return self.nats / math.log(2) / self.text_bytes if self.text_bytes else None


@torch.no_grad()
def sum_losses(
    model: Any,
    batches: Iterable[Batch],
    *,
    token_bytes: np.ndarray | None = None,
    device: torch.device | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> ValidationResult:
    """Sum the cross entropy of a model over batches of any sizes.

    Args:
        model: a MobileLLM; its mode (training or evaluation) is restored.
        batches: `input_ids` and `labels`, (batch, seq) each, and optionally `document_ids`.
        token_bytes: number of bytes of text of each token id, (vocab,); None: unknown.
        device: of the model; default: the device of its first parameter.
        reduce: sums a float64 tensor on the CPU over all ranks; None: there is one process.

    Raises:
        ValueError: no token has a label.
    """
    device = device or next(model.parameters()).device
    with EvaluationMode(model):
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            inputs = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            output = model(
                inputs["input_ids"], attention_mask=attention_mask_of(inputs), logits=False
            )
            losses = token_losses(output.hidden, model.unembed, inputs["labels"])
            # In float64, the sum does not depend on how the rows are batched.
            sums[0] += losses.cpu().double().sum()
            labels = batch["labels"][batch["labels"] != IGNORE_INDEX]
            sums[1] += labels.numel()
            if token_bytes is not None:
                sums[2] += int(token_bytes[labels.numpy()].sum())
    nats, tokens, text_bytes = (sums if reduce is None else reduce(sums)).tolist()
    if tokens == 0:
        raise ValueError("no token of the validation data has a label; give more text")
    return ValidationResult(nats, int(tokens), int(text_bytes))


class EvaluationMode:
    """Puts a model into evaluation mode inside a `with` block."""

    def __init__(self, model: nn.Module) -> None:
        """Remember the mode, which is restored at the end."""
        self.model, self.training = model, model.training

    def __enter__(self) -> None:
        """Begin evaluation mode."""
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        """Restore the mode."""
        self.model.train(self.training)
