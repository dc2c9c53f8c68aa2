"""One step of every distillation loss, on one or two gloo processes; gradients go to a file.

python distilled_run.py FILE TEACHER_FOLDER DEVICES
"""

import sys

import lean_start  # noqa: F401
import torch
from lightning.pytorch import Callback
from pairs_of_answers import pair_windows
from small_run import VOCAB, Tokens, fit, leave_group, make_data, make_model, make_module

from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.checkpoint import save_model
from mobilellm.distillation.losses.attention_kl import AttentionKL
from mobilellm.distillation.losses.direct_preference import DirectPreference
from mobilellm.distillation.losses.forward_kl import ForwardKL
from mobilellm.distillation.losses.hidden_state_cosine import HiddenStateCosine
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE
from mobilellm.distillation.losses.jensen_shannon import JensenShannon
from mobilellm.distillation.losses.layer_map import Last
from mobilellm.distillation.losses.reverse_kl import ReverseKL
from mobilellm.distillation.losses.teacher_cross_entropy import TeacherCrossEntropy
from mobilellm.search import SupernetSpace
from mobilellm.training.trainer import TrainerConfig

LOSSES = {
    "forward_kl": ForwardKL(temperature=2.0),
    "reverse_kl": ReverseKL(),
    "jensen_shannon": JensenShannon(),
    "teacher_cross_entropy": TeacherCrossEntropy(),
    "hidden_state_mse": HiddenStateMSE(projection=True),
    "feed_forward": HiddenStateMSE(capture="feed_forward", projection=True),
    "embedding": HiddenStateMSE(capture="embedding", projection=True),
    "hidden_state_cosine": HiddenStateCosine(layers=Last(k=2), projection=True),
    "attention_kl": AttentionKL(),
}
CASES = {name: {"losses": {name: loss}} for name, loss in LOSSES.items()} | {
    "top_k": {"losses": {"forward_kl": ForwardKL()}, "top_k": 5, "rounding": "fixed16"},
    "all": {"losses": LOSSES},
    "pairs": {"losses": {"dpo": DirectPreference(beta=0.7)}},
    "supernet": {"space": SupernetSpace(num_blocks=[1, 2], hidden_size=[8, 16]), "num_random": 1},
}


class PromptedWindows(torch.utils.data.Dataset):
    """Windows whose first labels are masked, in each another number, all of them in some."""

    def __init__(self, windows):
        self.windows = windows

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        item = self.windows[index]
        item["labels"][: (index * 7) % 18] = -100
        return item


class PromptedTokens(Tokens):
    """The same text, with prompts."""

    def windows(self, split, sequence_length, **options):
        return PromptedWindows(super().windows(split, sequence_length, **options))


class PairTokens(Tokens):
    """Pairs of answers; a window has one or more."""

    def windows(self, split, sequence_length, **_):
        return pair_windows(len(split), 200, VOCAB, sequence_length)


class KeepGradients(Callback):
    """Copies the gradients that the step was made with."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in pl_module.named_parameters()
            if parameter.grad is not None
        }


def make_teacher(folder):
    """Wider and deeper than the student, with as many heads."""
    torch.manual_seed(5)
    save_model(make_model(hidden_size=24, num_blocks=4), folder)


def gradients_of(case, teacher, config):
    keeper = KeepGradients()
    if "space" in case:
        distillation = SupernetCallback(**case, distillation_weight=0.7)
    else:
        distillation = DistillationCallback(teacher=teacher, **case)
    callbacks = [distillation, keeper]
    module = make_module(1, model=make_model(block_repeats=2), gradient_clip_norm=None, start=False)
    has_pairs = getattr(distillation, "compares_pairs", False)
    data = make_data(2, PairTokens() if has_pairs else PromptedTokens(), document_mask=True)
    trainer = fit(module, data, callbacks=callbacks, config=config)
    assert trainer.world_size == config.world_size
    return keeper.gradients


def main():
    file, teacher, devices = sys.argv[1:]
    assert VOCAB == 37
    strategy = "auto" if devices == "1" else "ddp"
    config = TrainerConfig(accelerator="cpu", devices=int(devices), strategy=strategy)
    found = {name: gradients_of(case, teacher, config) for name, case in CASES.items()}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(found, file)
    leave_group()


if __name__ == "__main__":
    main()
