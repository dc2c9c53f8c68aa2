"""Log-likelihoods of continuations of prompts, each token of what prompts share computed once."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilellm.evaluation.shared_prefixes import (
    PrefixGroup,
    Tokens,
    group_by_prefix,
    group_mask,
    pad_rows,
)

BATCH_TOKENS = {"cpu": 1024}
"""The most tokens per forward pass by type of device. More do not make a CPU faster, since its
caches are small."""
OTHER_BATCH_TOKENS = 16384
ROW_TOKENS = 128
"""Groups that are shorter share a row: its attention still costs little, and padding costs more."""

# The most logits that are in memory at the same time.
_LOGITS = {"cpu": 2**24}
_OTHER_LOGITS = 2**28

TokenIds = Sequence[int] | NDArray[Any]


class ContinuationScore(NamedTuple):
    """The likelihood of one continuation."""

    log_likelihood: float
    """Sum over all tokens of the continuation, in nats; at most 0."""
    is_greedy: bool
    """Whether greedy decoding gives the continuation."""


@torch.no_grad()
def score_continuations(
    model: nn.Module,
    pairs: Sequence[tuple[TokenIds, TokenIds]],
    *,
    batch_tokens: int | None = None,
    device: torch.device | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[ContinuationScore]:
    """Compute the log-likelihood of each continuation, given its prompt.

    Equal pairs are computed once, and so are the first tokens that several pairs share, such as
    the prompt of a question with several answers. Short groups of pairs share a row. The scores
    depend on the batches only by rounding, by less than 1e-4 nats.

    Args:
        model: a MobileLLM; its mode (training or evaluation) is restored.
        pairs: token ids of a prompt and of its continuation, (tokens,) each, at least one token
            each.
        batch_tokens: the most tokens per forward pass, padding included; a longer row forms a
            batch of its own. Default: `BATCH_TOKENS`.
        device: of the model; default: the device of its first parameter.
        advance: called with the number of pairs that were scored, after each batch.

    Returns:
        One score per pair, in the order of `pairs`.

    Raises:
        ValueError: a prompt or a continuation has no token.
    """
    device = device or next(model.parameters()).device
    limit = batch_tokens or BATCH_TOKENS.get(device.type, OTHER_BATCH_TOKENS)
    numbers = _numbered(pairs)
    scores: list[ContinuationScore | None] = [None] * len(pairs)
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(_targets(list(numbers)), limit):
            for target, score in _score(model, batch, device):
                for number in numbers[target]:
                    scores[number] = score
            if advance is not None:
                groups = (of_group for row in batch for _, of_group in row)
                targets = (t for of_group in groups for of_row in of_group for t in of_row)
                advance(sum(len(numbers[target]) for target in targets))
    finally:
        model.train(was_training)
    return scores  # pyright: ignore[reportReturnType]


Target = tuple[Tokens, int]
"""Prompt and continuation together, and the number of tokens of the prompt."""
Group = tuple[PrefixGroup, list[list[Target]]]
"""A group of input sequences, and the targets that each of its sequences predicts."""


def _numbered(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> dict[Target, list[int]]:
    """The different pairs, each with its numbers in `pairs`."""
    numbers: dict[Target, list[int]] = {}
    for number, (prompt, rest) in enumerate(pairs):
        tokens = (*map(int, prompt), *map(int, rest))
        if not 0 < len(prompt) < len(tokens):
            raise ValueError(
                f"pair {number} has a prompt of {len(prompt)} tokens and a continuation of "
                f"{len(tokens) - len(prompt)}; each needs at least 1 token"
            )
        numbers.setdefault((tokens, len(prompt)), []).append(number)
    return numbers


def _targets(targets: Sequence[Target]) -> list[Group]:
    """Group targets by the tokens that the model reads, which exclude the last one."""
    by_input: dict[Tokens, list[Target]] = {}
    for target in targets:
        by_input.setdefault(target[0][:-1], []).append(target)
    inputs = list(by_input)
    return [
        (group, [by_input[inputs[i]] for i in group.members]) for group in group_by_prefix(inputs)
    ]


def _batches(groups: Sequence[Group], batch_tokens: int) -> Iterator[list[list[Group]]]:
    """Yield batches of rows, which consist of one or several groups, the longest groups first.

    All rows of a batch have the length of its longest group, or `ROW_TOKENS` if that is shorter,
    and are filled with the longest groups that fit, so that hardly any padding is left.
    """
    waiting = sorted(groups, key=lambda group: group[0].length)
    while waiting:
        size = max(waiting[-1][0].length, min(ROW_TOKENS, batch_tokens))
        rows = []
        for _ in range(max(1, batch_tokens // size)):
            row, room = [], size
            while True:
                end = bisect_right(waiting, room, key=lambda group: group[0].length)
                if not end:
                    break
                row.append(waiting.pop(end - 1))
                room -= row[-1][0].length
            if row:
                rows.append(row)
        yield rows


def _score(
    model: Any, batch: Sequence[Sequence[Group]], device: torch.device
) -> Iterator[tuple[Target, ContinuationScore]]:
    """Yield the score of each target of a batch."""
    rows = [[group for group, _ in row] for row in batch]
    input_ids = pad_rows([[token for group in row for token in group.tokens] for row in rows], 0)
    options: dict[str, Any] = {}
    if any(len(row) > 1 or len(row[0].members) > 1 for row in rows):
        options["attention_mask"] = group_mask(rows).to(device)
        positions = [[place for group in row for place in group.positions] for row in rows]
        options["positions"] = pad_rows(positions, 0).to(device)
    hidden = model(input_ids.to(device), logits=False, **options).hidden.flatten(0, 1)
    width = input_ids.shape[1]
    targets: list[Target] = []
    places: list[int] = []
    expected: list[int] = []
    for number, row in enumerate(batch):
        start = number * width
        for group, of_group in row:
            for in_row, of_sequence in zip(group.places(), of_group, strict=True):
                for tokens, prompt in of_sequence:
                    targets.append((tokens, prompt))
                    places += [start + place for place in in_row[prompt - 1 :]]
                    expected += tokens[prompt:]
            start += group.length
    found = _log_probabilities(model, hidden, places, expected)
    sizes = [len(tokens) - prompt for tokens, prompt in targets]
    for target, nats, greedy in zip(
        targets, found[0].split(sizes), found[1].split(sizes), strict=True
    ):
        yield target, ContinuationScore(float(nats.sum()), bool(greedy.all()))


def _log_probabilities(
    model: Any, hidden: Tensor, places: Sequence[int], expected: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Log-probability of each expected token, and whether it is the most likely one.

    Args:
        model: a MobileLLM.
        hidden: hidden states (rows, hidden).
        places: for each expected token the row that predicts it.
        expected: token ids.

    Returns:
        float64 in nats and bool, (tokens,) each, on the CPU. The logits of a row that predicts
        several of the tokens are computed once.
    """
    rows, of_token = torch.tensor(places).unique(return_inverse=True)
    wanted = torch.tensor(expected)
    limit = _LOGITS.get(hidden.device.type, _OTHER_LOGITS)
    step = max(1, limit // model.config.vocab_size)
    nats = torch.empty(len(wanted), dtype=torch.float64)
    greedy = torch.empty(len(wanted), dtype=torch.bool)
    for first in range(0, len(rows), step):
        logits = model.unembed(hidden[rows[first : first + step].to(hidden.device)]).float()
        is_here = (of_token >= first) & (of_token < first + step)
        row = (of_token[is_here] - first).to(hidden.device)
        token = wanted[is_here].to(hidden.device)
        chosen = logits[row, token]
        nats[is_here] = (chosen - logits.logsumexp(dim=-1)[row]).cpu().double()
        greedy[is_here] = (logits.argmax(dim=-1)[row] == token).cpu()
    return nats, greedy
