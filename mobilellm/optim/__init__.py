"""Optimizers with one parameter group per role, and learning-rate schedules."""

from mobilellm.optim.adamw import adamw
from mobilellm.optim.muon import muon
from mobilellm.optim.schedules import constant, cosine, warmup_stable_decay

__all__ = ["adamw", "constant", "cosine", "muon", "warmup_stable_decay"]
