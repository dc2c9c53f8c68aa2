"""Runs a teacher over the training windows and writes a logit store."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mobilellm.accounting.training_memory import LOSS_CHUNK_LOGITS
from mobilellm.bfloat16 import multiplies_bfloat16
from mobilellm.data.windows import Windows
from mobilellm.distillation.logit_store.manifest import LogitInputs
from mobilellm.distillation.logit_store.writer import LogitWriter, ShardWriter
from mobilellm.distillation.losses.sampling import sample_of
from mobilellm.distillation.losses.targets import TopK
from mobilellm.distillation.teachers.teacher import ModelTeacher


def write_missing(
    writer: LogitWriter,
    teacher: ModelTeacher,
    windows: Windows,
    *,
    device: str,
    micro_batch_size: int,
) -> float:
    """Run the teacher over the windows of all missing shards.

    Micro-batches do not cross shards, so that interruptions do not change the bytes of a shard.

    Args:
        writer: the writer of the store.
        teacher: a teacher whose `top_k` is that of the store; None for samples.
        windows: the windows of the training split.
        device: `cpu`, `cuda` or `mps`.
        micro_batch_size: windows per forward pass.

    Returns:
        Tokens per second; 0 if no shard was missing.
    """
    inputs, missing = writer.inputs, writer.missing
    tokens = sum(len(inputs.windows_of(shard)) for shard in missing) * inputs.sequence_length
    teacher.to(torch.device(device))
    started = time.perf_counter()
    with _progress(tokens) as advance, _autocast(teacher, device):
        for shard in missing:
            numbers = inputs.windows_of(shard)
            with writer.shard(shard) as file:
                for first in range(numbers.start, numbers.stop, micro_batch_size):
                    last = min(first + micro_batch_size, numbers.stop)
                    items = [windows[number] for number in range(first, last)]
                    batch = {
                        name: torch.stack([item[name] for item in items]).to(device)
                        for name in items[0]
                    }
                    offsets = _offsets(inputs, range(first, last)) if inputs.is_sampled else None
                    _append(file, teacher, batch, inputs, offsets)
                    advance(batch["input_ids"].numel())
    return tokens / (time.perf_counter() - started)


def _append(
    file: ShardWriter,
    teacher: ModelTeacher,
    batch: dict[str, torch.Tensor],
    inputs: LogitInputs,
    offsets: torch.Tensor | None,
) -> None:
    """Append one micro-batch; the logits are computed for one chunk of tokens at a time."""
    tokens, device = batch["input_ids"].numel(), batch["input_ids"].device.type
    allowed = LOSS_CHUNK_LOGITS.get(device, LOSS_CHUNK_LOGITS["cpu"])
    chunk = max(1, allowed // teacher.structure.vocab_size)
    teacher_output = teacher.run(batch)
    for first in range(0, tokens, chunk):
        place = slice(first, min(first + chunk, tokens))
        target = teacher_output.target(place, inputs.temperature)
        if offsets is None:  # With `top_k`, the target is a `TopK`.
            file.append(cast("TopK", target))
            continue
        logits = cast("torch.Tensor", target)
        file.append(sample_of(logits, inputs.k, offsets[place], temperature=inputs.temperature))


def _offsets(inputs: LogitInputs, windows: range) -> torch.Tensor:
    """Random numbers (tokens,) of some windows, which depend on the seed and the window alone."""
    rows = [
        np.random.default_rng([inputs.seed or 0, window]).random(inputs.sequence_length)
        for window in windows
    ]
    return torch.from_numpy(np.concatenate(rows))


def _autocast(teacher: ModelTeacher, device: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on GPUs, as in training."""
    is_gpu = device == "cuda" and multiplies_bfloat16(torch.device(device))
    if is_gpu and teacher.precision == "auto":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@contextmanager
def _progress(tokens: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function that takes the number of processed tokens."""

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f} tokens/s,")

    columns = (
        TextColumn("teacher"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:.0f} %,"),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("passed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=tokens)
        yield lambda count: progress.advance(task, count)
