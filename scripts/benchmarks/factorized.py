"""Measures factorised layers, compared with dense ones and with forming the product.

Run as a program, this module measures the peak memory of one forward pass.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.part_shape import PartShape, low_rank_shape, part_with_right
from mobilellm.models import ModelConfig
from scripts.benchmarks.rounds import alternate, median_ratio, repeated
from scripts.benchmarks.shapes import mobilellm_125m

ROOT = Path(__file__).resolve().parents[2]
WIDTH, INNER = 768, 3072
TOKENS = (4096, 1)


class FormedProduct(nn.Module):
    """A factorised layer that multiplies its factors into a dense weight in each forward pass."""

    def __init__(self, layer: KroneckerLinear) -> None:
        """Wrap a layer."""
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in) -> (..., out)."""
        return F.linear(x, self.layer.materialize())


def feed_forward(name: str, width: int = WIDTH, inner: int = INNER) -> nn.Module:
    """Build two layers with a ReLU between them; all kinds have half the parameters of `dense`."""
    make = _MAKERS[name]
    return nn.Sequential(make(inner, width), nn.ReLU(), make(width, inner))


def measure_factorized(*, rounds: int, seconds: float, quick: bool = False) -> list[dict[str, Any]]:
    """Measure time and memory of the forward pass, one row per contestant.

    The last row gives the seconds to factorise all matrices of the 125M model.
    """
    width, inner = (64, 128) if quick else (WIDTH, INNER)
    rows: list[dict[str, Any]] = [
        {"feed_forward": name, "parameters": _parameters(feed_forward(name, width, inner))}
        for name in _MAKERS
    ]
    for tokens in TOKENS:
        times = compare_forward(tokens, rounds, seconds, width, inner)
        for row in rows:
            name = row["feed_forward"]
            row[f"ms_at_{tokens}"] = 1000 * statistics.median(times[name])
            row[f"over_dense_at_{tokens}"] = median_ratio(times, "dense", name)
            row[f"over_formed_at_{tokens}"] = median_ratio(times, "formed", name)
    for row in rows:
        row["peak_bytes"] = _peak_bytes(row["feed_forward"], 1 if quick else rounds, width, inner)
    config = ModelConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_blocks=1, num_attention_heads=2
    )
    taken = seconds_of_factorizing(config if quick else mobilellm_125m())
    return [row | dict.fromkeys(taken, "") for row in rows] + [
        dict.fromkeys(rows[0], "") | {"feed_forward": "all of the 125M model"} | taken
    ]


@torch.no_grad()
def compare_forward(
    tokens: int, rounds: int, seconds: float, width: int = WIDTH, inner: int = INNER
) -> dict[str, list[float]]:
    """Measure the seconds of one forward pass of each contestant in each round."""
    x = torch.randn(tokens, width)
    contestants: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    for name in _MAKERS:
        layers = feed_forward(name, width, inner)
        contestants[name], counts[name] = repeated(
            lambda layers=layers: layers(x), seconds=seconds / 4
        )
    times = alternate(contestants, rounds=rounds)
    return {name: [took / counts[name] for took in taken] for name, taken in times.items()}


def seconds_of_factorizing(config: ModelConfig) -> dict[str, float]:
    """Measure `nearest_kronecker` on all matrices, at half the parameters: (1x2) and low rank."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(size, generator=generator) for size in config.matrix_sizes.values()]
    taken = {}
    for name, shape_of in (("kronecker", _halving), ("low_rank", _twin)):
        start = time.perf_counter()
        for matrix in matrices:
            part = shape_of(*matrix.shape)
            nearest_kronecker(matrix, part.left, part.right, part.num_terms)
        taken[f"seconds_to_{name}"] = time.perf_counter() - start
    return taken


def _halving(rows: int, columns: int) -> PartShape:
    return part_with_right((rows, columns), (1, 2))


def _twin(rows: int, columns: int) -> PartShape:
    """The low-rank shape with at most as many parameters as `_halving`."""
    return low_rank_shape(rows, columns, _halving(rows, columns).parameters // (rows + columns))


def _filled(shape: PartShape) -> KroneckerLinear:
    return KroneckerLinear(
        torch.randn(shape.num_terms, *shape.left) * 0.1,
        torch.randn(shape.num_terms, *shape.right) * 0.1,
    )


def _thin(rows: int, columns: int) -> nn.Module:
    rank = _twin(rows, columns).num_terms
    return nn.Sequential(nn.Linear(columns, rank, bias=False), nn.Linear(rank, rows, bias=False))


_MAKERS: dict[str, Callable[[int, int], nn.Module]] = {
    "dense": lambda rows, columns: nn.Linear(columns, rows, bias=False),
    "kronecker": lambda rows, columns: _filled(_halving(rows, columns)),
    "low_rank": lambda rows, columns: _filled(_twin(rows, columns)),
    "two_linears": _thin,
    "formed": lambda rows, columns: FormedProduct(_filled(_halving(rows, columns))),
}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _peak_bytes(name: str, rounds: int, width: int, inner: int) -> float:
    """Median of the peak memory over new processes."""
    command = [sys.executable, "-m", "scripts.benchmarks.factorized", name, str(width), str(inner)]
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8"
        )
        found.append(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])
    return statistics.median(found)


@torch.no_grad()
def main(name: str, width: str, inner: str) -> None:
    """Print the peak memory of one forward pass above weights and input, as JSON."""
    import psutil

    from mobilellm.pipeline.memory import peak_memory_bytes, reset_peak_memory

    layers, x = feed_forward(name, int(width), int(inner)), torch.randn(TOKENS[0], int(width))
    layers(x[:8])  # the first call allocates memory that is kept
    reset_peak_memory("cpu")
    before = psutil.Process().memory_info().rss
    layers(x)
    sys.stdout.write(
        json.dumps({"peak_bytes": peak_memory_bytes("cpu") - before}, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
