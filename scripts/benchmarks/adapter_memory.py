"""Measures the peak memory and the time of training steps of adapters and of all weights.

Each is measured in a new process: model, adapter and AdamW as `mobilellm train` builds them from
conf/, in float32, with the same tokens. The peak is that of loading and of three steps, above the
memory of the process before loading. The model is the folder in BENCHMARK_MODEL; without it, random
weights in the shape of SmolLM2-135M are saved to a temporary folder first. Run as a program, this
module is one of those processes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODEL = "BENCHMARK_MODEL"
KINDS = ("none", "none 8-bit", "lora", "dora", "qlora", "qlora checkpointed 8-bit")
"""Choices of `adapter`; 8-bit: with optimizer=adamw8bit; checkpointed: with
trainer.activation_checkpointing. The last one has all that Guanaco has."""
EIGHT_BIT, CHECKPOINTED = "8-bit", "checkpointed"
STEPS = 3


def measure_adapter_memory(*, rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Measure one row per kind of adapter and batch; medians over the rounds."""
    with tempfile.TemporaryDirectory() as work:
        folder = os.environ.get(MODEL) or _random_model(Path(work) / "model", quick=quick)
        rows: list[dict[str, Any]] = []
        for windows, length in [(1, 16)] if quick else [(1, 256), (4, 256)]:
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for _ in range(rounds):
                for kind, results in found.items():
                    results.append(_in_new_process(folder, kind, windows, length, quick=quick))
            rows += _rows(found, windows, length)
    return rows


def _rows(
    found: dict[str, list[dict[str, float]]], windows: int, length: int
) -> list[dict[str, Any]]:
    medians = {
        kind: {name: statistics.median(one[name] for one in results) for name in results[0]}
        for kind, results in found.items()
    }
    whole = medians["none"]
    return [
        {
            "adapter": kind,
            "batch": f"{windows} x {length}",
            "trained_parameters": int(one["trained"]),
            "peak_bytes": int(one["peak"]),
            "of_all_weights": one["peak"] / whole["peak"],
            "forecast_bytes": int(one["forecast"]),
            "step_ms": 1000 * one["seconds"],
            "time_of_all_weights": one["seconds"] / whole["seconds"],
        }
        for kind, one in medians.items()
    ]


def _in_new_process(
    folder: str, kind: str, windows: int, length: int, *, quick: bool
) -> dict[str, float]:
    words = [sys.executable, "-m", "scripts.benchmarks.adapter_memory", folder, kind]
    result = subprocess.run(
        [*words, str(windows), str(length), *(["--quick"] if quick else [])],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    return json.loads(result.stdout.splitlines()[-1])


def _random_model(folder: Path, *, quick: bool) -> str:
    """Save a model with random weights, and return its folder."""
    from mobilellm.checkpoint import save_model
    from mobilellm.models import MobileLLM, ModelConfig
    from scripts.benchmarks.shapes import preset

    small = ModelConfig(vocab_size=128, hidden_size=16, intermediate_size=32, num_blocks=2,
                        num_attention_heads=4)  # fmt: skip
    save_model(MobileLLM(small if quick else preset("smollm2_135m")), folder)
    return str(folder)


def main(folder: str, kind: str, windows: str, length: str, *quick: str) -> None:
    """Load a model, run some steps, and print memory, time and forecast as JSON."""
    import psutil

    from mobilellm.accounting.training_memory import training_memory_bytes
    from mobilellm.pipeline.memory import peak_memory_bytes, reset_peak_memory

    chosen = _overrides(kind, quick=bool(quick))
    with tempfile.TemporaryDirectory() as work:
        # The first step of a process loads modules, which are not part of the measurement.
        tiny = _random_model(Path(work) / "model", quick=True)
        _Step(tiny, _overrides(kind, quick=True), (1, 8))()
    reset_peak_memory("cpu")
    start = psutil.Process().memory_info().rss
    step = _Step(folder, chosen, (int(windows), int(length)))
    seconds = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    forecast = training_memory_bytes(
        step.model.config, int(windows), int(length),
        optimizer="adamw8bit" if EIGHT_BIT in kind.split() else "adamw",
        activation_checkpointing=step.checkpointed,
    )  # fmt: skip
    facts = {
        "peak": peak_memory_bytes("cpu") - start,
        "seconds": statistics.median(seconds[1:]),
        "forecast": forecast.total,
        "trained": sum(p.numel() for p in step.model.parameters() if p.requires_grad),
    }
    sys.stdout.write(json.dumps(facts, allow_nan=False) + "\n")


def _overrides(kind: str, *, quick: bool) -> list[str]:
    """The adapter as conf/ describes it; of a rank and in groups that fit the quick model."""
    name, *options = kind.split()
    overrides = [
        f"adapter={name}",
        f"optimizer={'adamw8bit' if EIGHT_BIT in options else 'adamw'}",
        f"trainer.activation_checkpointing={CHECKPOINTED in options}",
    ]
    if quick and name != "none":
        overrides.append("adapter.rank=4")
    if quick and name == "qlora":
        overrides.append("adapter.quantized.group=16")
    return overrides


class _Step:
    """One optimizer step of a saved model, with or without an adapter."""

    def __init__(self, folder: str, overrides: list[str], shape: tuple[int, int]) -> None:
        """Load the model, and build adapter and optimizer."""
        import torch

        from mobilellm.formats.model_folder import open_model
        from mobilellm.hydra_app.configuration import compose, instantiate, plain_config
        from mobilellm.pipeline.adapted_config import configured_adapter

        config = compose("train", [*overrides, "optimizer.learning_rate=1e-4"])
        self.model = open_model(folder)[0].train()
        adapter = configured_adapter(plain_config(config))
        if adapter is not None:
            self.model = adapter.adapt(self.model, seed=0)
        self.checkpointed: bool = config.trainer.activation_checkpointing
        self.model.set_activation_checkpointing(self.checkpointed)
        self.optimizer = instantiate(config.optimizer)(self.model)
        generator = torch.Generator().manual_seed(0)
        size = (shape[0], shape[1] + 1)
        self.tokens = torch.randint(self.model.config.vocab_size, size, generator=generator)

    def __call__(self) -> None:
        """Run forward and backward pass and the update."""
        from mobilellm.losses.chunked import chunked_losses

        hidden = self.model(self.tokens[:, :-1], logits=False).hidden.flatten(0, 1)
        labels = self.tokens[:, 1:].flatten()
        chunked_losses(hidden, self.model.unembed, labels).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


if __name__ == "__main__":
    main(*sys.argv[1:])
