"""A trial of Hugging Face's `Trainer` with `LlamaForCausalLM`.

Learning rate, batch, warm-up and the cosine schedule are set; everything else that affects training
is `Trainer`'s default, such as fused AdamW without weight decay and clipping at 1.
"""

import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from scripts.benchmarks.peer_models import huggingface_llama
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


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """Blocks of `sequence_length` tokens, which are also the labels: the model shifts them."""

    def __init__(self, settings: Settings) -> None:
        """Open the windows; their last token is the first one of the next window."""
        self.windows = windows_of(settings, "train")

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One block."""
        tokens = torch.from_numpy(self.windows[index, :-1].astype("int64"))
        return {"input_ids": tokens, "labels": tokens}


class TimingCallback(TrainerCallback):
    """Runs the clock during training."""

    def __init__(self, clock: Clock) -> None:
        """Keep the clock."""
        self.clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.clock.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        self.clock.stop()


def train(settings: Settings, clock: Clock) -> Trained:
    """Train with `Trainer`."""
    set_seed(settings["seed"])
    model = huggingface_llama(settings["shape"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=num_steps(settings),
                per_device_train_batch_size=windows_per_step(settings),
                learning_rate=settings["learning_rate"],
                lr_scheduler_type="cosine",
                warmup_steps=warmup_steps(settings),
                logging_steps=settings["log_interval_steps"],
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,
                seed=settings["seed"],
            ),
            train_dataset=Blocks(settings),
            callbacks=[TimingCallback(clock)],
        )
        trainer.train()
    model.eval()
    return Trained(
        lambda tokens: model(tokens).logits,
        parameters=sum(each.numel() for each in model.parameters()),
        steps=trainer.state.global_step,
        tokens_per_step=settings["tokens_per_step"],
        learning_rate=settings["learning_rate"],
    )


if __name__ == "__main__":
    run_trial(train)
