"""Small real runs: a two-block model on text of a known distribution."""

import csv
import gc
import sys
from functools import partial

import numpy as np
import torch

from mobilellm.data.windows import WindowDataset
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.optim import adamw
from mobilellm.optim.schedules import cosine
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.intervals import Intervals
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.trainer import TrainerConfig, make_trainer
from mobilellm.training.training_budget import TrainingBudget

VOCAB, LENGTH, SAMPLES = 37, 16, 8


class Tokens:
    """Prepared data in memory: Zipf-distributed words, a document's end now and then."""

    eos_token_id = 2
    token_bytes = np.arange(VOCAB) % 5

    def __init__(self, train=1500, validation=600):
        self.sizes = {"train": train, "validation": validation}

    def tokens(self, split):
        rng = np.random.default_rng(len(split))
        words = np.minimum(rng.zipf(1.5, self.sizes[split]), VOCAB - 1)
        return words.astype(np.uint16)

    def windows(self, split, sequence_length, **options):
        return WindowDataset(self.tokens(split), sequence_length, eos_token_id=2, **options)


def make_model(**changes):
    torch.manual_seed(0)
    config = {
        "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    } | changes  # fmt: skip
    return MobileLLM(ModelConfig(**config))


def make_module(
    steps=12, *, model=None, optimizer=adamw, log=1, validate=None, start=True, samples=SAMPLES,
    **more,
):  # fmt: skip
    return LanguageModelModule(
        model or make_model(),
        optimizer=partial(optimizer, learning_rate=1e-2),
        schedule=cosine(warmup_steps=3),
        budget=TrainingBudget(max_steps=steps, tokens_per_step=LENGTH * samples),
        intervals=Intervals(log_steps=log, validation_steps=validate, validate_at_start=start),
        **more,
    )


def make_data(micro_batch_size=SAMPLES, tokens=None, *, samples=SAMPLES, **more):
    return TokenDataModule(
        tokens or Tokens(),
        sequence_length=LENGTH,
        micro_batch_size=micro_batch_size,
        samples_per_step=samples,
        seed=3,
        **more,
    )


def fit(module, data, folder=None, *, callbacks=(), resume=None, config=None):
    trainer = make_trainer(
        config or TrainerConfig(accelerator="cpu"),
        max_steps=module.budget.total_steps,
        callbacks=callbacks,
        loggers=[] if folder is None else [CSVLogger(folder)],
    )
    trainer.fit(module, datamodule=data, ckpt_path=None if resume is None else str(resume))
    return trainer


def command(script, devices):
    """What starts a script as so many ranks of one run."""
    if devices == 1:
        return [sys.executable, str(script)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={devices}", str(script)]


def leave_group():
    """End the group that Lightning made: left to the interpreter's end, it may abort there."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()


def read_rows(folder):
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(rows):
    timed = ("seconds", "tokens_per_second", "model_flops_utilization")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]
