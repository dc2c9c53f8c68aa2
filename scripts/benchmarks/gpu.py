"""Measures training and decoding on a GPU, in parts that are written as soon as they are measured.

A part that the file of results already has for this device is not measured again, so that an
interrupted run continues where it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mobilellm.models import ModelConfig
from mobilellm.provenance import device_name
from scripts.benchmarks.gpu_loop import measure_callbacks, measure_each_callback
from scripts.benchmarks.gpu_training import (
    measure_cuda_graph,
    measure_decoding,
    measure_documents,
    measure_float8,
    measure_muon_share,
    measure_training,
    measure_whole_compilation,
)
from scripts.benchmarks.shapes import preset

MODELS = ("mobilellm_125m", "mobilellm_ls_125m", "mobilellm_350m", "mobilellm_1b")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """How the parts are measured."""

    device: str
    """`cuda`, or `cpu` to check that the parts run; such figures mean nothing."""
    rounds: int
    steps: int
    """Training steps per round."""
    sequence_length: int
    compiles: bool
    most_windows: int = 16
    """Largest batch; smaller if the memory forecast requires it."""

    @property
    def name(self) -> str:
        """The name of the device, by which results are recognised."""
        return device_name(self.device)


def measure_gpu(
    known: Mapping[str, Sequence[Mapping[str, Any]]], *, rounds: int, quick: bool = False
) -> Iterator[tuple[str, Rows]]:
    """Measure all parts that are not known yet; each is yielded with its name.

    Args:
        known: rows of earlier runs by the name of their part.
        rounds: number of rounds.
        quick: on a CPU and with a tiny shape, to check that the parts run.
    """
    if not (quick or torch.cuda.is_available()):
        yield "gpu", [{"not measured": "no CUDA device"}]
        return
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    bench = (
        Bench("cpu", rounds, steps=1, sequence_length=16, compiles=False, most_windows=2)
        if quick
        else Bench("cuda", rounds, steps=10, sequence_length=2048, compiles=True)
    )
    for name, work in gpu_parts(bench, tiny=tiny_shape() if quick else None).items():
        if any(row.get("device") == bench.name for row in known.get(name, ())):
            continue
        yield name, [{"device": bench.name, **row} for row in work()]


def gpu_parts(bench: Bench, tiny: ModelConfig | None = None) -> dict[str, Callable[[], Rows]]:
    """The parts by name, the most valuable first.

    Args:
        bench: how they are measured.
        tiny: replaces all models; None: the presets.
    """
    configs = {name: tiny or preset(name) for name in (MODELS[:1] if tiny else MODELS)}
    smallest, (largest, large) = configs[MODELS[0]], list(configs.items())[-1]
    training = {
        f"gpu training {name}": partial(measure_training, bench, name, config)
        for name, config in configs.items()
    }
    first, *others = training.items()
    small = ("30x192", thin_shape()) if tiny is None else ("tiny", tiny)
    shapes = {small[0]: (small[1], min(8, bench.most_windows), min(256, bench.sequence_length)),
              MODELS[0]: (smallest, bench.most_windows, bench.sequence_length)}  # fmt: skip
    return dict(
        [
            first,
            ("gpu cuda graph", partial(measure_cuda_graph, bench, shapes)),
            ("gpu callbacks", partial(measure_callbacks, bench, smallest)),
            ("gpu documents", partial(measure_documents, bench, smallest)),
            ("gpu decoding", partial(measure_decoding, bench, smallest)),
            ("gpu muon", partial(measure_muon_share, bench, smallest)),
            ("gpu float8", partial(measure_float8, bench, largest, large)),
            *others,
            ("gpu each callback", partial(measure_each_callback, bench, smallest)),
            (
                "gpu whole compilation",
                partial(measure_whole_compilation, bench, MODELS[0], smallest),
            ),
        ]
    )


def thin_shape() -> ModelConfig:
    """Thirty thin blocks, whose kernels take longer to launch than to run."""
    return ModelConfig(
        vocab_size=4096, hidden_size=192, intermediate_size=512, num_blocks=30,
        num_attention_heads=3,
    )  # fmt: skip


def tiny_shape() -> ModelConfig:
    """A shape for CPUs."""
    return ModelConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_blocks=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
