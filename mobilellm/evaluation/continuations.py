"""Log-likelihoods of continuations of prompts."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# The most rows of logits that are in memory at the same time.
_LOGIT_ROWS = 1024

Tokens = NDArray[Any]


class ContinuationScore(NamedTuple):
    """The likelihood of one continuation."""

    log_likelihood: float
    """Sum over all tokens of the continuation, in nats; at most 0."""
    is_greedy: bool
    """Whether greedy decoding gives the continuation."""


@torch.no_grad()
def score_continuations(
    model: nn.Module,
    pairs: Sequence[tuple[Tokens, Tokens]],
    *,
    batch_tokens: int = 8192,
    device: torch.device | None = None,
) -> list[ContinuationScore]:
    """Compute the log-likelihood of each continuation, given its prompt.

    Pairs of similar length form a batch and are padded at the end, which causal attention ignores.

    Args:
        model: a MobileLLM; its mode (training or evaluation) is restored.
        pairs: token ids of a prompt and of its continuation, (tokens,) each, at least one token
            each.
        batch_tokens: the most tokens per forward pass, padding included; a longer pair forms a
            batch of its own.
        device: of the model; default: the device of its first parameter.

    Returns:
        One score per pair, in the order of `pairs`.
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
    """Yield the indices of the rows of each batch, the longest rows first."""
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
    is_target = torch.zeros(len(pairs), size, dtype=torch.bool)
    for row, (prompt, rest) in enumerate(pairs):
        tokens = torch.from_numpy(np.concatenate([prompt, rest]).astype(np.int64))
        input_ids[row, : len(tokens) - 1] = tokens[:-1]
        is_target[row, len(prompt) - 1 : len(tokens) - 1] = True
    targets = torch.from_numpy(np.concatenate([rest for _, rest in pairs]).astype(np.int64))
    hidden = model(input_ids.to(device), logits=False).hidden[is_target.to(device)]
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
    """Cross entropy of each target, float64 in nats, and whether it is the most likely token.

    Both are (tokens,) and on the CPU.
    """
    nats = F.cross_entropy(logits.float(), targets, reduction="none")
    return nats.cpu().double(), (logits.argmax(dim=-1) == targets).cpu()
