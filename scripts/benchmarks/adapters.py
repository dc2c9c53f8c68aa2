"""Measures a training step of an adapter, compared with a step that trains all weights.

All contestants run the forward and the backward pass of the same model on the same tokens, and one
update of AdamW. `lora` has dense frozen matrices, `dora` trains the lengths of their rows as well,
and `qlora` has matrices in NF4, which every forward pass converts to floats.
"""

import statistics
from typing import Any

import torch

from mobilellm.accounting import flops_per_token
from mobilellm.adapters import Adapter
from mobilellm.losses.chunked import chunked_losses
from mobilellm.models import MobileLLM, ModelConfig
from scripts.benchmarks.peers import random_tokens
from scripts.benchmarks.rounds import alternate, median_ratio, repeated
from scripts.benchmarks.shapes import Workload, middle_workload

RANK = 16
VOCABULARY = 2048


class AdaptedStep:
    """One optimizer step of a model, with or without an adapter."""

    def __init__(self, workload: Workload, **settings: Any) -> None:
        """Build the model; without settings all weights are trained."""
        self.model = MobileLLM(workload.config)
        if settings:
            self.model = Adapter(**settings).adapt(self.model, seed=0)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)
        self.tokens = random_tokens(workload)

    def __call__(self) -> None:
        """Run one step."""
        hidden = self.model(self.tokens[:, :-1], logits=False).hidden.flatten(0, 1)
        labels = self.tokens[:, 1:].flatten()
        chunked_losses(hidden, self.model.unembed, labels).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_adapters(*, rounds: int, seconds: float, quick: bool = False) -> list[dict[str, Any]]:
    """Measure one row per kind of adapter; medians of alternating rounds."""
    workload = _workload(quick)
    group = workload.config.hidden_size if quick else 64
    lora = {"rank": 4 if quick else RANK, "alpha": 32}
    steps = {
        "all weights": AdaptedStep(workload),
        "lora": AdaptedStep(workload, **lora),
        "dora": AdaptedStep(workload, **lora, dora=True),
        "qlora": AdaptedStep(
            workload, **lora, quantized={"bits": 4, "group": group, "levels": "normal"}
        ),
    }
    count: int = repeated(steps["all weights"], seconds=seconds)[1]
    taken = alternate({n: lambda s=s: _run(s, count) for n, s in steps.items()}, rounds=rounds)
    length = workload.sequence_length
    base = flops_per_token(workload.config, length).training
    return [
        {
            "trained": name,
            "model": workload.name,
            "parameters": sum(p.numel() for p in step.trained),
            "step_ms": 1000 * statistics.median(taken[name]) / count,
            "of_all_weights": 1 / median_ratio(taken, name, "all weights"),
            "flops_of_all_weights": flops_per_token(step.model.config, length).training / base,
            "optimizer_bytes": _state_bytes(step.optimizer),
        }
        for name, step in steps.items()
    ]


def _run(step: AdaptedStep, count: int) -> None:
    for _ in range(count):
        step()


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in values)


def _workload(quick: bool) -> Workload:
    if not quick:
        return middle_workload(VOCABULARY)
    config = ModelConfig(
        vocab_size=128, hidden_size=16, intermediate_size=32, num_blocks=2, num_attention_heads=4
    )
    return Workload("2x16", config, batch=2, sequence_length=16)
