"""A trial of LitGPT: its `litgpt.pretrain.main`, which compiles the model, and its `fit`.

The recipe is that of its TinyLlama configuration: AdamW with weight decay 0.1 and betas 0.9 and
0.95, gradients clipped at 1, linear warm-up, cosine decay to a tenth, its initialisation. Only
checkpoints are left out, and the model is compiled before the time is measured. Trials of the
tuning, whose time does not matter, are not compiled.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Fabric
from litgpt import pretrain  # pyright: ignore[reportMissingImports]
from litgpt.args import EvalArgs, TrainArgs  # pyright: ignore[reportMissingImports]
from litgpt.data import DataModule  # pyright: ignore[reportMissingImports]
from torch.utils.data import DataLoader, RandomSampler

from scripts.benchmarks.peer_models import litgpt_config
from scripts.benchmarks.time_to_loss.child import (
    Clock,
    Settings,
    Trained,
    num_steps,
    run_trial,
    warmup_steps,
    windows_of,
    windows_per_step,
)

NEVER = 10**9


class TimedSampler(RandomSampler):
    """Starts the clock when the first training window is asked for."""

    def __init__(self, windows: torch.Tensor, clock: Clock) -> None:
        """Draw from all windows."""
        super().__init__(windows)  # pyright: ignore[reportArgumentType]
        self.clock = clock

    def __iter__(self) -> Iterator[int]:
        """The windows of one epoch in random order."""
        self.clock.start()
        return super().__iter__()


class WindowData(DataModule):
    """The windows of the comparison, in the form that LitGPT expects."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Read the windows."""
        super().__init__()
        self.windows = torch.from_numpy(np.array(windows_of(settings, "train"), dtype=np.int64))
        self.size = windows_per_step(settings)
        self.clock = clock

    def connect(self, tokenizer: Any = None, batch_size: int = 1, **_: Any) -> None:
        """Nothing depends on these settings."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of (windows, sequence_length + 1) token ids."""
        sampler = TimedSampler(self.windows, self.clock)
        return DataLoader(self.windows, self.size, sampler=sampler, drop_last=True)  # pyright: ignore[reportArgumentType]

    def val_dataloader(self) -> DataLoader[Any]:
        """One batch, for LitGPT's check before training."""
        return DataLoader(self.windows[: self.size], self.size)  # pyright: ignore[reportArgumentType]


def train(settings: Settings, clock: Clock) -> Trained:
    """Train with LitGPT's own functions."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    finished: dict[str, Any] = {}
    original_fit = pretrain.fit

    def timed_fit(*, state: dict[str, Any], **options: Any) -> None:
        compile_model(state["model"], settings)
        original_fit(state=state, **options)
        clock.stop()
        finished.update(state)

    pretrain.fit = timed_fit
    pretrain.save_checkpoint = lambda *_, **__: None
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        pretrain.main(
            fabric=fabric,
            devices=1,
            seed=settings["seed"],
            initial_checkpoint_dir=None,
            resume=False,
            config=litgpt_config(settings["shape"], settings["sequence_length"]),
            data=WindowData(settings, clock),
            out_dir=Path(folder),
            tokenizer_dir=None,
            tokenizer=None,
            **recipe(settings),
        )
    model = finished["model"].eval()
    return Trained(
        model,
        parameters=sum(each.numel() for each in model.parameters()),
        steps=finished["step_count"],
        tokens_per_step=settings["tokens_per_step"],
        learning_rate=settings["learning_rate"],
    )


def recipe(settings: Settings) -> dict[str, Any]:
    """The arguments `train`, `eval` and `optimizer` of `litgpt.pretrain.main`."""
    size, rate = windows_per_step(settings), settings["learning_rate"]
    return {
        "train": TrainArgs(
            save_interval=None,
            log_interval=settings["log_interval_steps"],
            global_batch_size=size,
            micro_batch_size=size,
            lr_warmup_steps=warmup_steps(settings),
            max_tokens=num_steps(settings) * settings["tokens_per_step"],
            max_norm=1.0,
            min_lr=rate / 10,
            tie_embeddings=settings["shape"]["tie_word_embeddings"],
        ),
        "eval": EvalArgs(interval=NEVER, final_validation=False),
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": rate, "weight_decay": 0.1, "betas": (0.9, 0.95)},
        },
    }


def compile_model(model: torch.nn.Module, settings: Settings) -> None:
    """Run a forward and a backward pass, so that compilation is not part of the training time."""
    tokens = torch.zeros(windows_per_step(settings), settings["sequence_length"] + 1).long()
    # As `fit` makes its inputs: tensors with other strides would be compiled again.
    model(tokens[:, :-1].contiguous()).sum().backward()
    model.zero_grad()


if __name__ == "__main__":
    run_trial(train)
