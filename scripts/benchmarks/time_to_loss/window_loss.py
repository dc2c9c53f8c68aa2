"""The validation loss that is measured for all contenders; needs torch and numpy alone."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WINDOWS_PER_BATCH = 8


@torch.no_grad()
def mean_loss(logits_of: Callable[[Tensor], Tensor], windows: NDArray[np.uint16]) -> float:
    """Mean cross entropy in nats per token.

    Args:
        logits_of: maps token ids (batch, seq) to logits (batch, seq, vocab).
        windows: token ids (windows, seq + 1); every token but the first of a window is predicted.
    """
    total = 0.0
    for first in range(0, len(windows), WINDOWS_PER_BATCH):
        tokens = torch.from_numpy(windows[first : first + WINDOWS_PER_BATCH].astype(np.int64))
        logits = logits_of(tokens[:, :-1]).float().flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(
            logits, tokens[:, 1:].flatten(), reduction="none"
        )
        total += losses.double().sum().item()
    return total / (len(windows) * (windows.shape[1] - 1))
