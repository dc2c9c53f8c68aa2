"""Ten steps of every kind of model on one, two or three gloo processes; started as a script.

python parallel_run.py FOLDER TEACHER STRATEGY DEVICES all | stop | resume

`stop` ends after step 5 with a checkpoint, `resume` goes on from it. Each case has a folder with
its metrics.csv; `collectives.json` counts what the processes exchange in one step.
"""

import json
import sys
from pathlib import Path

import lean_start  # noqa: F401
import torch
from lightning.pytorch import Callback
from poison import Poison
from small_run import fit, leave_group, make_data, make_model, make_module

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.callbacks.loss_guard import LossGuardCallback
from mobilellm.checkpoint import save_model
from mobilellm.distillation import ForwardKL
from mobilellm.models.sharing import SHARING_SCHEMES
from mobilellm.optim import adamw, muon
from mobilellm.training.execution import Execution
from mobilellm.training.trainer import TrainerConfig

STEPS, STOP, SAMPLES = 10, 5, 12
FACTORISED = {
    "blocks.0.feed_forward.up_proj": {
        "parts": [{"left": (12, 4), "right": (2, 4), "num_terms": 2}]
    },
    "blocks.1.attention.q_proj": {"parts": [{"left": (16, 1), "right": (1, 16), "num_terms": 3}]},
}
CASES = {
    "tied": {},
    "untied": {"model": {"tie_word_embeddings": False}},
    "shared": {"model": {"block_repeats": 2}},
    "shared_untied": {"model": {"block_repeats": 2, "tie_word_embeddings": False}},
    "unevenly_shared": {"model": {"layer_sharing": "there_and_back"}},
    "compressed": {"model": {"compressed_layers": FACTORISED, "block_repeats": 2}},
    "taught": {"teacher": True},
    "muon": {"optimizer": muon},
    "muon_shared": {"optimizer": muon, "model": {"block_repeats": 2}},
    "accumulated": {"size": 2},
    "accumulated_shared": {"size": 2, "model": {"block_repeats": 2}},
    "recomputed": {
        "module": {"execution": Execution(activation_checkpointing=True)},
        "model": {"block_repeats": 2},
    },
    "skipped": {"is_poisoned": True},
    "bfloat16": {"precision": "bf16-mixed", "model": {"block_repeats": 2}},
}
RESUMED = ("tied", "shared_untied", "unevenly_shared", "compressed", "muon_shared")


class StopAfter(Callback):
    """Someone asks to stop at a step's end."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == STOP:
            trainer.should_stop = True


class CountCollectives(Callback):
    """Counts, by name, what goes over the process group in the third step."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self.profiler.start()

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            self.profiler.stop()
            averages = self.profiler.key_averages()
            self.counts = {e.key: e.count for e in averages if e.key.startswith("c10d::")}


def run_case(folder, teacher, devices, strategy, phase, case):
    saver = CheckpointCallback(folder / "checkpoints", every_seconds=None)
    counter = CountCollectives()
    callbacks = [counter]
    if case.get("teacher"):
        callbacks.append(DistillationCallback(str(teacher), {"kl": ForwardKL()}))
    if case.get("is_poisoned"):
        rank = None if devices == 1 else devices - 1
        callbacks += [Poison([3 * SAMPLES], rank=rank), LossGuardCallback(action="skip")]
    if phase == "stop":
        callbacks.append(StopAfter())
    module = make_module(
        STEPS, model=make_model(**case.get("model", {})), validate=STOP, samples=SAMPLES,
        optimizer=case.get("optimizer", adamw), **case.get("module", {}),
    )  # fmt: skip
    trainer = fit(
        module, make_data(case.get("size", SAMPLES // devices), samples=SAMPLES), folder,
        callbacks=[*callbacks, saver], resume=saver.last_path if phase == "resume" else None,
        config=TrainerConfig(
            accelerator="cpu", devices=devices, strategy=strategy,
            precision=case.get("precision", "32-true"),
        ),
    )  # fmt: skip
    assert trainer.world_size == devices
    if phase == "all" and trainer.is_global_zero:
        (folder / "collectives.json").write_text(json.dumps(counter.counts), encoding="utf-8")


def make_teacher(folder):
    torch.manual_seed(5)
    save_model(make_model(hidden_size=24, num_blocks=3), folder)


def there_and_back(num_blocks, block_repeats):
    """0 1 0: the last block runs once, the others twice."""
    return (*range(num_blocks), *reversed(range(num_blocks - 1)))


def main():
    SHARING_SCHEMES["there_and_back"] = there_and_back
    folder, teacher, strategy, devices, phase = sys.argv[1:]
    for name in CASES if phase == "all" else RESUMED:
        run_case(Path(folder) / name, Path(teacher), int(devices), strategy, phase, CASES[name])
    leave_group()


if __name__ == "__main__":
    main()
