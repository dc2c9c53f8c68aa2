"""Measures a step of Muon.

All matrices of a size at once are compared with one after the other, and products in bfloat16 with
those in float32.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.optim import batched_muon
from mobilellm.optim.batched_muon import BatchedMuon
from mobilellm.optim.parameter_groups import parameters_by_role
from scripts.benchmarks.rounds import alternate, median_ratio, repeated

# Blocks, width and heads.
SHAPES = ((4, 144, 9), (16, 64, 4), (30, 576, 9))
TYPES = {
    "bfloat16": lambda _: torch.bfloat16,
    "float32": lambda _: torch.float32,
    "chosen": batched_muon.product_type,
}
"""Types of the products by column; `chosen` is that of training on this CPU."""


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
    torchs, ours = torch.optim.Muon(matrices, lr=1e-3), BatchedMuon(matrices, lr=1e-3)
    steps = {"torch": torchs.step} | {
        name: partial(_step_in, choose, ours) for name, choose in TYPES.items()
    }
    contestants: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    for name, step in steps.items():
        contestants[name], counts[name] = repeated(step, seconds=seconds)
    taken = alternate(contestants, rounds=rounds)
    times = {name: [took / counts[name] for took in each] for name, each in taken.items()}
    return {
        "shape": f"{blocks}×{width}",
        "matrices": len(matrices),
        **{f"{name}_ms": 1000 * statistics.median(each) for name, each in times.items()},
        "speedup": median_ratio(times, "chosen", "torch"),
        "chosen": str(batched_muon.product_type(torch.device("cpu"))).removeprefix("torch."),
    }


def _step_in(choose: Callable[[torch.device], torch.dtype], optimizer: BatchedMuon) -> None:
    with patch.object(batched_muon, "product_type", choose):
        optimizer.step()
