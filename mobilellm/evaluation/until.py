"""Greedy continuation of prompts up to a stop text, for tasks whose answers are generated."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mobilellm.evaluation.language_model import Advance, LanguageModel
from mobilellm.models.generation import generate

MAX_NEW_TOKENS = 256
"""The harness's own limit for tasks that state none."""
ROUND_TOKENS = 16
"""Tokens after which stop texts are looked for first; later twice as many each time. Answers are
mostly shorter than the limit, and each round reads the text so far again."""
BATCH_PROMPTS = 32

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def generate_until(
    model: LanguageModel,
    requests: Sequence[tuple[str, Mapping[str, Any]]],
    advance: Advance | None = None,
) -> tuple[list[str], int]:
    """Continue each prompt greedily, up to a stop text, the end-of-text token or a limit.

    Args:
        model: with its tokenizer.
        requests: for each its prompt, and the harness's settings: `until`, and `max_gen_toks` or
            another of its names.
        advance: called with the number of prompts that were continued, after each batch.

    Returns:
        The continuations without the stop text; the number of prompts that were cut on the left.

    Raises:
        ValueError: a request asks for sampling, or for more tokens than the context has.
    """
    prompts, truncated = _prompts(model, requests)
    answers = [""] * len(requests)
    order = sorted(range(len(requests)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), BATCH_PROMPTS):
        batch = order[first : first + BATCH_PROMPTS]
        found = _continue(model, [prompts[i] for i in batch], [requests[i][1] for i in batch])
        for index, answer in zip(batch, found, strict=True):
            answers[index] = answer
        if advance is not None:
            advance(len(batch))
    return answers, truncated


def _prompts(
    model: LanguageModel, requests: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[list[list[int]], int]:
    prompts, truncated = [], 0
    encoded = model.encode([context for context, _ in requests])
    for tokens, (_, settings) in zip(encoded, requests, strict=True):
        if settings.get("do_sample"):
            raise ValueError(
                "the task samples its answers (do_sample: true), and only greedy decoding is "
                "supported; choose another task"
            )
        room = model.context_length - _limit(settings) - len(model.begin)
        if room < 1:
            raise ValueError(
                f"the task generates up to {_limit(settings)} tokens, which leaves no room for the "
                f"prompt in max_position_embeddings={model.context_length} of {model.name}; use a "
                "model with a longer context"
            )
        truncated += len(tokens) > room
        prompts.append([*model.begin, *tokens[-room:]] or [model.start])
    return prompts, truncated


def _continue(
    model: LanguageModel, prompts: Sequence[list[int]], settings: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Generate in rounds; a prompt leaves the batch when its answer is complete."""
    answers: dict[int, str] = {}
    tokens = {index: list(prompt) for index, prompt in enumerate(prompts)}
    device = next(model.model.parameters()).device
    round_tokens = ROUND_TOKENS
    while tokens:
        limits = {i: _limit(settings[i]) - len(tokens[i]) + len(prompts[i]) for i in tokens}
        step = min(round_tokens, *limits.values())
        round_tokens *= 2
        rows = [torch.tensor(row, device=device) for row in tokens.values()]
        made = generate(model.model, rows, step, eos_token_id=model.eos_id)[:, -step:].tolist()
        for index, new in zip(list(tokens), made, strict=True):
            tokens[index] += new
            answer, is_complete = _answer(model, tokens[index][len(prompts[index]) :],
                                          _stops(settings[index]))  # fmt: skip
            if is_complete or limits[index] <= step:
                answers[index] = answer
                del tokens[index]
    return [answers[index] for index in range(len(prompts))]


def _answer(model: LanguageModel, new: list[int], stops: Sequence[str]) -> tuple[str, bool]:
    """Text of the generated tokens before the first stop, and whether there was one."""
    ended = model.eos_id in new
    kept = new[: new.index(model.eos_id)] if ended else new
    known = [token for token in kept if token < model.tokenizer.vocab_size]
    text = model.tokenizer.decode(known)
    places = [text.index(stop) for stop in stops if stop and stop in text]
    return text[: min(places)] if places else text, ended or bool(places)


def _limit(settings: Mapping[str, Any]) -> int:
    return int(next((settings[n] for n in _LIMITS if settings.get(n)), MAX_NEW_TOKENS))


def _stops(settings: Mapping[str, Any]) -> list[str]:
    until = settings.get("until") or []
    return [until] if isinstance(until, str) else list(until)
