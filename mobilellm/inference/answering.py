"""Answers of a model to many prompts, in batches."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mobilellm.data.tokenizers import Tokenizer
from mobilellm.data.tokenizers.answer import Answer, read_answer
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.inference.end_tokens import end_tokens
from mobilellm.models import MobileLLM
from mobilellm.models.generation import check_sampling, generate
from mobilellm.ranges import MAX_SEED, Range, check_fields

BATCH = Range(at_least=1, cap=100_000)


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How answers are generated; with equal settings they are equal.

    Raises:
        ValueError: a value is out of range.
    """

    max_new_tokens: int = 256
    """The most tokens of an answer."""
    temperature: float = 0.0
    """0: the most likely token each time; otherwise logits are divided by it before sampling."""
    top_k: int | None = None
    """Sample only from the k most likely tokens."""
    top_p: float | None = None
    """Sample only from the most likely tokens with this total probability."""
    seed: int = 0
    """Of the sampling; each batch has its own seed, which follows from it."""
    batch_size: int = 16
    """Prompts per batch."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self, seed=Range(at_least=0, cap=MAX_SEED), batch_size=BATCH)
        check_sampling(self.max_new_tokens, self.temperature, self.top_k, self.top_p)

    def to_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def answer_batch(
    model: MobileLLM,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Answering,
    *,
    batch: int,
) -> list[Answer]:
    """Answer a batch of prompts.

    Args:
        model: in evaluation mode, on any device.
        tokenizer: of the model.
        prompts: tokens of each, as the model expects them.
        settings: how tokens are chosen.
        batch: number of the batch, from which its seed follows.

    Raises:
        ValueError: see `generate`.
    """
    if not prompts:
        return []
    ends = end_tokens(with_tokenizer_ids(model.config, tokenizer), tokenizer)
    width = max(map(len, prompts))
    rows = generate(
        model,
        [torch.tensor(prompt) for prompt in prompts],
        settings.max_new_tokens,
        settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=_seed(settings, batch) if settings.temperature > 0 else None,
        eos_token_id=ends,
    )
    return [read_answer(tokenizer, row, ends) for row in rows[:, width:].tolist()]


def _seed(settings: Answering, batch: int) -> int:
    """The seed of a batch, which `generate` accepts whatever the seed of all batches is."""
    return ((settings.seed + 1) * 1_000_003 + batch) % (MAX_SEED + 1)
