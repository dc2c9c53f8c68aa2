"""Plain training steps of this project, of Hugging Face's Llama, and of LitGPT's GPT.

All steps consist of the forward pass, cross entropy over all tokens, the backward pass and fused
AdamW, with the same shape, precision and random tokens.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.losses.micro_batch import StepCounts
from mobilellm.models import MobileLLM
from mobilellm.training.cuda_graph import GraphedPass
from scripts.benchmarks.peer_models import huggingface_llama, llama_shape
from scripts.benchmarks.shapes import Workload

ROOT = Path(__file__).resolve().parents[2]


def random_tokens(workload: Workload, device: str = "cpu") -> torch.Tensor:
    """Draw token ids, (batch, sequence_length + 1)."""
    shape = (workload.batch, workload.sequence_length + 1)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(workload.config.vocab_size, shape, generator=generator).to(device)


class OurStep:
    """One optimizer step of this project in a plain loop."""

    def __init__(self, workload: Workload, device: str = "cpu") -> None:
        """Build model and optimizer."""
        self.model = MobileLLM(workload.config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.tokens = random_tokens(workload, device)
        self.mask: Callable[[], Any] | None = None
        """Makes the mask of attention at each step, as training does."""

    def __call__(self) -> None:
        """Run one step."""
        self.compute_gradients(self.tokens)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def compute_gradients(self, tokens: torch.Tensor) -> None:
        """Forward and backward pass."""
        mask = None if self.mask is None else self.mask()
        hidden = self.model(tokens[:, :-1], attention_mask=mask, logits=False).hidden
        total = chunked_cross_entropy(hidden, self.model.unembed, tokens[:, 1:])
        (total / tokens[:, 1:].numel()).backward()


class GraphedStep(OurStep):
    """The same step, whose forward and backward pass are one CUDA graph."""

    def __init__(self, workload: Workload, device: str = "cuda") -> None:
        """Build model and optimizer; the graph is recorded after some steps."""
        super().__init__(workload, device)
        none = torch.zeros((), device=device)
        graphed = GraphedPass(lambda batch, *_: self.compute_gradients(batch["tokens"]) or {})
        counts = StepCounts(none, none)
        self._compute = lambda: graphed({"tokens": self.tokens}, counts, none)

    def __call__(self) -> None:
        """Run one step."""
        self._compute()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


class HuggingFaceStep:
    """The same step with Hugging Face's model and its own loss."""

    def __init__(self, workload: Workload, device: str = "cpu") -> None:
        """Build model and optimizer."""
        self.model = huggingface_llama(llama_shape(workload.config)).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        # This loss shifts the labels itself, so one token per row fewer is predicted.
        self.tokens = random_tokens(workload, device)[:, :-1].contiguous()

    def __call__(self) -> None:
        """Run one step."""
        self.model(self.tokens, labels=self.tokens, use_cache=False).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class LitGPTStep:
    """The same step with LitGPT, in a process of LitGPT's environment that waits for commands."""

    def __init__(self, workload: Workload, device: str = "cpu", *, compiles: bool = False) -> None:
        """Start the process, which builds model and optimizer; on GPUs it computes in bf16."""
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        self.process = subprocess.Popen(
            [os.environ["LITGPT_PYTHON"], "-m", "scripts.benchmarks.litgpt_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            encoding="utf-8",
        )
        settings = {
            "shape": llama_shape(workload.config),
            "batch": workload.batch,
            "sequence_length": workload.sequence_length,
            "threads": torch.get_num_threads(),
            "device": device,
            "compiles": compiles,
        }
        self._send(json.dumps(settings, allow_nan=False))

    def __call__(self) -> None:
        """Run one step in the process, and wait for it."""
        self._send("step")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        self.process.wait()

    def _send(self, line: str) -> None:
        stdin = self.process.stdin
        if stdin is None or self.process.stdout is None:
            raise RuntimeError("the LitGPT process has no pipes")
        stdin.write(line + "\n")
        stdin.flush()
        if self.process.stdout.readline().strip() != "done":
            raise RuntimeError(f"{self.process.args!r} ended; run this command yourself to see why")


def has_litgpt() -> bool:
    """Whether `LITGPT_PYTHON` is set."""
    return bool(os.environ.get("LITGPT_PYTHON"))
