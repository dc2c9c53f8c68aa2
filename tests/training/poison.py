"""A callback that makes the loss of certain samples not a number, or very high."""

import torch
from lightning.pytorch import Callback

from mobilellm.losses.loss_terms import LossTerm


class Poison(Callback):
    """Spoils the steps that begin at these samples, on one rank alone if told so."""

    def __init__(self, at, value=float("nan"), rank=None):
        """Remember where."""
        self.at, self.value, self.rank = tuple(at), value, rank

    def loss_terms(self, module, batch, output):
        """A term of the given value at those steps, else none."""
        mine = self.rank is None or module.trainer.global_rank == self.rank
        is_bad = mine and module.trainer.datamodule.consumed_samples in self.at
        return {"poison": LossTerm(output.hidden.sum() * (self.value if is_bad else 0.0))}


class HardLabels(Callback):
    """Gives the steps that begin at these samples labels that nobody could guess."""

    def __init__(self, at, token):
        """Remember where."""
        self.at, self.token = tuple(at), token

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Replace the labels."""
        if pl_module.trainer.datamodule.consumed_samples in self.at:
            for micro_batch in batch:
                micro_batch["labels"] = torch.full_like(micro_batch["labels"], self.token)
