"""Latency of prefill and decoding, and peak memory of prefill."""

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilellm.models import MobileLLM
from mobilellm.models.cache import KVCache
from mobilellm.models.config import check_positive


@dataclass(frozen=True)
class Latency:
    """Measurements of one model; times are medians over rounds."""

    prefill_ms: float
    """Milliseconds to process the prompt and to compute the logits of the next token."""
    decode_ms_per_token: float
    """Milliseconds per generated token, with a KV cache."""
    peak_memory_bytes: int | None
    """Peak memory of prefill, weights included; None if the device does not report it."""


def measure_latency(
    model: MobileLLM,
    *,
    prefill_tokens: int = 512,
    decode_tokens: int = 32,
    rounds: int = 5,
    batch_size: int = 1,
) -> Latency:
    """Measure one model on its device and in its data type.

    Decoding calls the forward pass of the model with a KV cache. `generate` may be faster for dense
    models, because it packs their weights.

    Args:
        model: it is not changed.
        prefill_tokens: length of the prompt, which consists of random tokens.
        decode_tokens: number of tokens that are decoded after the prompt, one by one.
        rounds: number of measurements, after one that is not counted.
        batch_size: number of sequences.

    Raises:
        ValueError: a number is below 1, or the tokens exceed the context length of the model.
    """
    return _measure({"": model}, prefill_tokens, decode_tokens, rounds, batch_size)[0][0]


def compare_latency(
    models: Mapping[str, MobileLLM],
    *,
    prefill_tokens: int = 512,
    decode_tokens: int = 32,
    rounds: int = 5,
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """Measure several models in alternation, so that other work on the machine affects all alike.

    Args:
        models: by name; the others are compared with the first.
        prefill_tokens: length of the prompt.
        decode_tokens: number of tokens that are decoded after the prompt.
        rounds: number of measurements of each model; each round reverses the order of the models.
        batch_size: number of sequences.

    Returns:
        One row per model: `model`, the fields of `Latency`, and `prefill_ratio` and `decode_ratio`.
        A ratio is the time of the model divided by the time of the first model, as the median of
        the ratios within the rounds.

    Raises:
        ValueError: there is no model, a number is below 1, or the tokens exceed the context length
            of a model.
    """
    measured = _measure(models, prefill_tokens, decode_tokens, rounds, batch_size)
    first = measured[0][1]
    return [
        {
            "model": name,
            **asdict(latency),
            "prefill_ratio": _ratio([t[0] for t in times], [t[0] for t in first]),
            "decode_ratio": _ratio([t[1] for t in times], [t[1] for t in first]),
        }
        for name, (latency, times) in zip(models, measured, strict=True)
    ]


def time_rounds(
    models: Mapping[str, MobileLLM],
    *,
    prefill_tokens: int = 512,
    decode_tokens: int = 32,
    rounds: int = 5,
    batch_size: int = 1,
) -> dict[str, list[tuple[float, float]]]:
    """Time several models in alternation, as `compare_latency` does.

    Args:
        models: by name.
        prefill_tokens: length of the prompt, which consists of random tokens.
        decode_tokens: number of tokens that are decoded after the prompt, one by one.
        rounds: number of measurements of each model, after one that is not counted; each round
            reverses the order of the models.
        batch_size: number of sequences.

    Returns:
        For each model and round, the seconds for the prompt, and per decoded token.

    Raises:
        ValueError: as `compare_latency`.
    """
    if not models:
        raise ValueError("models is empty; give at least one, e.g. {'dense': model}")
    for name, value in (
        ("prefill_tokens", prefill_tokens), ("decode_tokens", decode_tokens),
        ("rounds", rounds), ("batch_size", batch_size),
    ):  # fmt: skip
        check_positive(name, value)
    _check_length(models, prefill_tokens + decode_tokens)
    tokens = _random_tokens(models, batch_size, prefill_tokens + decode_tokens)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for number in range(-1, rounds):
        for name in list(models)[:: -1 if number % 2 else 1]:
            taken = _run(models[name], tokens[name], prefill_tokens)
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def weights_in_memory(model: MobileLLM) -> int:
    """Return the bytes of all parameters and buffers; tensors that share memory count once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors}.values())


@torch.no_grad()
def peak_memory_bytes(model: MobileLLM, input_ids: Tensor) -> int | None:
    """Measure the peak memory of a forward pass, without the memory allocated before it.

    On a GPU, CUDA's allocator reports the peak. On a CPU, it is the largest sum of allocations and
    frees.

    Args:
        model: it is not changed.
        input_ids: token ids, (batch, seq), on the device of the model.

    Returns:
        Bytes; None on other devices.
    """
    if input_ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _next_logits(model, input_ids)
        return torch.cuda.max_memory_allocated() - before
    if not input_ids.is_cpu:
        return None
    cpu = [torch.profiler.ProfilerActivity.CPU]
    # Otherwise the profiler prints to stderr when it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        _next_logits(model, input_ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return max(itertools.accumulate(event["args"]["Bytes"] for event in changes), default=0)


def _measure(
    models: Mapping[str, MobileLLM],
    prefill_tokens: int,
    decode_tokens: int,
    rounds: int,
    batch_size: int,
) -> list[tuple[Latency, list[tuple[float, float]]]]:
    """For each model its latency, and the seconds of each round: for the prompt, and per token."""
    seconds = time_rounds(
        models, prefill_tokens=prefill_tokens, decode_tokens=decode_tokens, rounds=rounds,
        batch_size=batch_size,
    )  # fmt: skip
    tokens = _random_tokens(models, batch_size, prefill_tokens)
    measured = []
    for name, times in seconds.items():
        prefill, decode = (1000 * statistics.median(kind) for kind in zip(*times, strict=True))
        peak = peak_memory_bytes(models[name], tokens[name])
        peak = None if peak is None else peak + weights_in_memory(models[name])
        measured.append((Latency(prefill, decode, peak), times))
    return measured


def _random_tokens(
    models: Mapping[str, MobileLLM], batch_size: int, length: int
) -> dict[str, Tensor]:
    """The same random tokens (batch, length) for every model, on its device."""
    vocab_size = min(model.config.vocab_size for model in models.values())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(vocab_size, (batch_size, length), generator=generator)
    return {name: drawn.to(next(m.parameters()).device) for name, m in models.items()}


@torch.no_grad()
def _run(model: MobileLLM, tokens: Tensor, prefill_tokens: int) -> tuple[float, float]:
    """Seconds for the prompt, and for each token after it."""
    cache = KVCache(model.config, capacity=tokens.shape[1])
    _synchronize(tokens)
    start = time.perf_counter()
    _next_logits(model, tokens[:, :prefill_tokens], cache)
    _synchronize(tokens)
    read = time.perf_counter()
    for place in range(prefill_tokens, tokens.shape[1]):
        _next_logits(model, tokens[:, place : place + 1], cache)
    _synchronize(tokens)
    return read - start, (time.perf_counter() - read) / (tokens.shape[1] - prefill_tokens)


def _next_logits(model: MobileLLM, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
    """Logits of the next token, (batch, vocab)."""
    cache = KVCache(model.config, capacity=tokens.shape[1]) if cache is None else cache
    return model.unembed(model(tokens, cache, logits=False).hidden[:, -1])


def _synchronize(tokens: Tensor) -> None:
    if not tokens.is_cpu:
        torch.accelerator.synchronize()


def _ratio(times: list[float], reference: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def _check_length(models: Mapping[str, MobileLLM], length: int) -> None:
    context = min(model.config.max_position_embeddings for model in models.values())
    if length > context:
        raise ValueError(
            f"prefill_tokens and decode_tokens together are {length}, more than "
            f"max_position_embeddings={context}; use fewer tokens"
        )
