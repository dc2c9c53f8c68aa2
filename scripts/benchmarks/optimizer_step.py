"""Measures a step of Muon: all matrices of a size at once, compared with one after the other."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.optim.batched_muon import BatchedMuon
from mobilellm.optim.parameter_groups import parameters_by_role
from scripts.benchmarks.rounds import alternate, median_ratio, repeated

# Blocks, width and heads.
SHAPES = ((4, 144, 9), (16, 64, 4), (30, 576, 9))
OPTIMIZERS = {"torch.optim.Muon": torch.optim.Muon, "batched": BatchedMuon}


def measure_muon(*, rounds: int, seconds: float, quick: bool = False) -> list[dict[str, Any]]:
    """Measure the milliseconds of one optimizer step, one row per shape."""
    return [_row(*shape, rounds, seconds) for shape in (SHAPES[1:2] if quick else SHAPES)]


def _row(blocks: int, width: int, heads: int, rounds: int, seconds: float) -> dict[str, Any]:
    config = ModelConfig(
        vocab_size=256, hidden_size=width, intermediate_size=8 * width // 3, num_blocks=blocks,
        num_attention_heads=heads,
    )  # fmt: skip
    matrices = parameters_by_role(MobileLLM(config))["matrix"]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    contestants: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    for name, make in OPTIMIZERS.items():
        contestants[name], counts[name] = repeated(make(matrices, lr=1e-3).step, seconds=seconds)
    taken = alternate(contestants, rounds=rounds)
    times = {name: [took / counts[name] for took in each] for name, each in taken.items()}
    theirs, ours = OPTIMIZERS
    return {
        "shape": f"{blocks}×{width}",
        "matrices": len(matrices),
        "torch_ms": 1000 * statistics.median(times[theirs]),
        "batched_ms": 1000 * statistics.median(times[ours]),
        "speedup": median_ratio(times, ours, theirs),
    }
