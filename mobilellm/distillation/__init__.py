"""Losses that let a student learn from a teacher: pure functions on tensors, one a file."""

from mobilellm.distillation.forward_kl import ForwardKL, forward_kl

__all__ = ["ForwardKL", "forward_kl"]
