"""Log likelihoods of continuations of prompts."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# Rows of logits in memory at the same time.
_LOGIT_ROWS = 1024

Tokens = NDArray[Any]


class ContinuationScore(NamedTuple):
    """The likelihood of one continuation."""

    log_likelihood: float
    """Of all its tokens together, in nats, at most 0."""
    is_greedy: bool
    """Whether greedy decoding gives it: each token is the most likely one after those before."""


@torch.no_grad()
def score_continuations(
    model: nn.Module,
    pairs: Sequence[tuple[Tokens, Tokens]],
    *,
    batch_tokens: int = 8192,
    device: torch.device | None = None,
) -> list[ContinuationScore]:
    """Log likelihood of each continuation after its prompt.

    Rows of similar length are batched, padded at the end, where causal attention ignores it.

    Args:
        model: a MobileLLM; it is left in the mode it was in.
        pairs: prompt and continuation, (tokens,) each, of at least one token each.
        batch_tokens: most tokens of a forward pass, padding included; a longer row goes alone.
        device: where the model is; default: its first parameter's.

    Returns:
        A score for each pair, in their order.
    """
    device = device or next(model.parameters()).device
    scores: dict[int, ContinuationScore] = {}
    was_training = model.training
    model.eval()
    for rows in _batches([len(prompt) + len(rest) for prompt, rest in pairs], batch_tokens):
        found = _score(model, [pairs[row] for row in rows], device)
        scores.update(zip(rows, found, strict=True))
    model.train(was_training)
    return [scores[row] for row in range(len(pairs))]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of each batch, the longest first."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _score(
    model: Any, pairs: Sequence[tuple[Tokens, Tokens]], device: torch.device
) -> list[ContinuationScore]:
    size = max(len(prompt) + len(rest) for prompt, rest in pairs) - 1
    input_ids = torch.zeros(len(pairs), size, dtype=torch.long)
    is_asked = torch.zeros(len(pairs), size, dtype=torch.bool)
    for row, (prompt, rest) in enumerate(pairs):
        tokens = torch.from_numpy(np.concatenate([prompt, rest]).astype(np.int64))
        input_ids[row, : len(tokens) - 1] = tokens[:-1]
        is_asked[row, len(prompt) - 1 : len(tokens) - 1] = True
    targets = torch.from_numpy(np.concatenate([rest for _, rest in pairs]).astype(np.int64))
    hidden = model(input_ids.to(device), logits=False).hidden[is_asked.to(device)]
    nats, likeliest = zip(
        *(
            _compare(model.unembed(rows), expected)
            for rows, expected in zip(
                hidden.split(_LOGIT_ROWS), targets.to(device).split(_LOGIT_ROWS), strict=True
            )
        ),
        strict=True,
    )
    sizes = [len(rest) for _, rest in pairs]
    return [
        ContinuationScore(-float(of_row.sum()), bool(is_likeliest.all()))
        for of_row, is_likeliest in zip(
            torch.cat(nats).split(sizes), torch.cat(likeliest).split(sizes), strict=True
        )
    ]


def _compare(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of each target, float64, and whether it is the most likely token; both on the CPU."""
    nats = F.cross_entropy(logits.float(), targets, reduction="none")
    return nats.cpu().double(), (logits.argmax(dim=-1) == targets).cpu()
