"""Optimizers with parameter groups by role, and learning-rate schedules."""

from mobilellm.optim.adamw import adamw
from mobilellm.optim.muon import muon

__all__ = ["adamw", "muon"]
