"""Optimizers with one parameter group per role, schedules, and parametrisations."""

from mobilellm.optim.adamw import adamw
from mobilellm.optim.adamw8bit import adamw8bit
from mobilellm.optim.muon import muon
from mobilellm.optim.parametrization import completep, mup
from mobilellm.optim.schedules import constant, cosine, warmup_stable_decay

__all__ = [
    "adamw",
    "adamw8bit",
    "completep",
    "constant",
    "cosine",
    "muon",
    "mup",
    "warmup_stable_decay",
]
