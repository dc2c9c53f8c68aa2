"""Measures a distilled training step, compared with a step on labels alone.

All contestants run the same forward and backward pass and the same update of the same student:
`labels` uses labels alone, `store` reads top-k probabilities from disk, `online` runs the teacher
and uses all of its probabilities, and `online_top_k` its top k. `teacher` is the teacher's forward
pass alone. Run as a program, this module measures the peak memory of one loss.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.distillation.logit_store.packing import Packing
from mobilellm.distillation.losses.forward_kl import ForwardKL
from mobilellm.distillation.losses.targets import TopK, top_k_of
from mobilellm.distillation.teachers.teacher import ModelTeacher, TeacherOutput, structure_of
from mobilellm.losses.micro_batch import count_step, micro_batch_losses
from mobilellm.models import MobileLLM, ModelConfig
from scripts.benchmarks.peers import random_tokens
from scripts.benchmarks.rounds import alternate, median_ratio, repeated
from scripts.benchmarks.shapes import Workload, middle_workload

ROOT = Path(__file__).resolve().parents[2]
TOP_K = 32
VOCABULARIES = (2048, 32_000)


class DistilledStep:
    """One optimizer step of a student, with or without a teacher."""

    def __init__(self, workload: Workload, teacher: Any = None) -> None:
        """Build the student; `teacher` is already open."""
        self.model = MobileLLM(workload.config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        tokens = random_tokens(workload)
        self.batch = {
            "input_ids": tokens[:, :-1],
            "labels": tokens[:, 1:],
            "window": torch.arange(workload.batch),
        }
        self.sources: list[Any] = []
        if teacher is not None:
            callback = DistillationCallback("open", {"forward_kl": ForwardKL()})
            callback.teacher, callback.student = teacher, structure_of(workload.config)
            self.sources = [callback]
        self.module = SimpleNamespace(model=self.model, task_weights={}, auxiliary={}, progress=0.5)

    def __call__(self) -> None:
        """Run one step."""
        counts = count_step([self.batch], 0, lambda total: total)
        loss, _ = micro_batch_losses(self.module, self.batch, self.sources, counts)
        (loss / counts.labels.sum()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class PackedStore:
    """Replaces a `LogitStore`: top-k probabilities in a memory-mapped file."""

    temperature = 1.0

    def __init__(self, file: Path, workload: Workload) -> None:
        """Write probabilities of random logits for every window of a step."""
        self.vocab_size = workload.config.vocab_size
        self.inputs = SimpleNamespace(is_sampled=False)
        self.packing = Packing(vocab_size=self.vocab_size, k=TOP_K)
        shape = (workload.batch, workload.sequence_length)
        logits = torch.randn(*shape, self.vocab_size, generator=torch.Generator().manual_seed(0))
        packed = self.packing.encode(top_k_of(logits, TOP_K))
        file.write_bytes(packed.numpy().tobytes())
        self.packed = torch.from_file(str(file), size=packed.numel(), dtype=torch.uint8)
        self.packed = self.packed.view(packed.shape)

    def read(self, windows: torch.Tensor) -> TopK:
        """Return the probabilities of these windows, (batch, seq, k)."""
        return self.packing.decode(self.packed[windows])


def measure_distillation(
    *, rounds: int, seconds: float, quick: bool = False
) -> list[dict[str, Any]]:
    """Measure one row per vocabulary, relative to a step on labels, and a row for the memory."""
    rows = [
        compare_costs(workload, rounds=rounds, seconds=seconds)
        for workload in (_workload(size, quick) for size in VOCABULARIES)
    ]
    return [*rows, *measure_loss_memory(rounds=rounds, vocab_size=512 if quick else 32_000)]


def compare_costs(workload: Workload, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Compare the costs of all contestants for one workload; medians of alternating rounds."""
    from mobilellm.distillation.teachers.teacher import StoredTeacher

    teacher_model = MobileLLM(_teacher_config(workload.config))
    structure = structure_of(teacher_model.config)
    with tempfile.TemporaryDirectory() as folder:
        store = StoredTeacher(PackedStore(Path(folder) / "store", workload))
        steps: dict[str, Callable[[], object]] = {
            "labels": DistilledStep(workload),
            "store": DistilledStep(workload, store),
            "online": DistilledStep(workload, ModelTeacher(teacher_model, structure)),
            "online_top_k": DistilledStep(
                workload, ModelTeacher(teacher_model, structure, top_k=TOP_K)
            ),
        }
        batch = steps["labels"].batch  # pyright: ignore[reportFunctionMemberAccess]
        steps["teacher"] = lambda: _whole_forward(teacher_model, batch)
        _, count = repeated(steps["labels"], seconds=seconds)
        taken = alternate({n: _repeat(step, count) for n, step in steps.items()}, rounds=rounds)
    cost = {name: 1 / median_ratio(taken, name, "labels") for name in steps if name != "labels"}
    return {
        "vocab_size": workload.config.vocab_size,
        "student": workload.name,
        "teacher_parameters": sum(p.numel() for p in teacher_model.parameters()),
        "top_k": TOP_K,
        "labels_ms": 1000 * statistics.median(taken["labels"]) / count,
        "store_cost": cost["store"],
        "teacher_forward_cost": cost["teacher"],
        "online_cost": cost["online"],
        "online_top_k_cost": cost["online_top_k"],
        "online_allowed": 1.1 + cost["teacher"],
    }


def measure_loss_memory(*, rounds: int, vocab_size: int) -> list[dict[str, Any]]:
    """Measure the peak memory of the loss and its gradients, in a new process each time."""
    peaks: dict[str, list[int]] = {"labels": [], "store": [], "online": []}
    for _ in range(rounds):
        for name, found in peaks.items():
            result = subprocess.run(
                [sys.executable, "-m", "scripts.benchmarks.distillation", name, str(vocab_size)],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
                encoding="utf-8",
            )
            found.append(json.loads(result.stdout.splitlines()[-1])["peak_bytes"])
    medians = {name: statistics.median(found) for name, found in peaks.items()}
    return [
        {
            "vocab_size": vocab_size,
            "tokens_per_step": 4096,
            "labels_loss_bytes": medians["labels"],
            "store_memory": medians["store"] / medians["labels"],
            "online_memory": medians["online"] / medians["labels"],
        }
    ]


def _workload(vocab_size: int, quick: bool) -> Workload:
    if not quick:
        return middle_workload(vocab_size)
    config = ModelConfig(
        vocab_size=vocab_size // 16, hidden_size=16, intermediate_size=32, num_blocks=2,
        num_attention_heads=4,
    )  # fmt: skip
    return Workload("2x16", config, batch=2, sequence_length=16)


def _teacher_config(config: ModelConfig) -> ModelConfig:
    """A wide teacher for a deep and thin student: twice as wide, with half of the blocks."""
    return ModelConfig(
        vocab_size=config.vocab_size,
        hidden_size=2 * config.hidden_size,
        intermediate_size=2 * config.intermediate_size,  # pyright: ignore[reportOperatorIssue]
        num_blocks=max(1, config.num_blocks // 2),
        num_attention_heads=2 * config.num_attention_heads,  # pyright: ignore[reportOperatorIssue]
    )


@torch.no_grad()
def _whole_forward(model: MobileLLM, batch: dict[str, torch.Tensor]) -> None:
    """Run the teacher's forward pass with its logits, which are computed in chunks."""
    hidden = model(batch["input_ids"], logits=False).hidden.flatten(0, 1)
    for rows in hidden.tensor_split(16):
        model.unembed(rows)


def _repeat(step: Callable[[], object], count: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(count):
            step()

    return repeat


def main(name: str, vocab_size: int) -> None:
    """Compute one loss with its gradients, and print its peak memory as JSON."""
    import psutil

    from mobilellm.distillation.terms import distillation_terms
    from mobilellm.losses.chunked import Term, chunked_losses
    from mobilellm.losses.loss_terms import LogitTerm
    from mobilellm.pipeline.memory import peak_memory_bytes, reset_peak_memory

    tokens, width = 4096, 256
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(vocab_size, width, generator=generator) * 0.02)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    theirs = torch.randn(tokens, width, generator=generator)
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    other = table.detach().clone()
    indices = torch.randint(vocab_size, (tokens, TOP_K), generator=generator)
    top = TopK(indices, torch.full((tokens, TOP_K), -4.0))

    def teacher_logits(place: slice) -> torch.Tensor:
        return theirs[place] @ other.T

    teacher_output = {
        "store": TeacherOutput(lambda place, _: top.rows(place)),
        "online": TeacherOutput(lambda place, _: teacher_logits(place), teacher_logits),
    }.get(name)
    structure = structure_of(_workload(vocab_size, False).config)
    terms: list[Term] = []
    if teacher_output is not None:
        made = distillation_terms(
            {"forward_kl": ForwardKL()}, teacher_output, None, {"labels": labels},
            unembed=lambda h: h @ table.T, student=structure, teacher=structure, progress=1.0,
            projections={},
        )  # fmt: skip
        terms = [t.as_chunk_term(labels) if isinstance(t, LogitTerm) else t for t in made.values()]  # pyright: ignore
    torch.zeros(1).log_softmax(-1)
    reset_peak_memory("cpu")
    start = psutil.Process().memory_info().rss
    for _ in range(3):
        chunked_losses(hidden, lambda h: h @ table.T, labels, terms=terms).total.backward()
    sys.stdout.write(
        json.dumps({"peak_bytes": peak_memory_bytes("cpu") - start}, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
