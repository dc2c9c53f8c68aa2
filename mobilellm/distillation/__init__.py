"""Losses that let a student learn from a teacher: pure functions on tensors, one a file."""

from mobilellm.distillation.attention_kl import attention_kl
from mobilellm.distillation.forward_kl import forward_kl
from mobilellm.distillation.hidden_state_cosine import hidden_state_cosine
from mobilellm.distillation.hidden_state_mse import hidden_state_mse
from mobilellm.distillation.jensen_shannon import jensen_shannon
from mobilellm.distillation.logit_mse import logit_mse
from mobilellm.distillation.reverse_kl import reverse_kl
from mobilellm.distillation.teacher_cross_entropy import teacher_cross_entropy

__all__ = [
    "attention_kl",
    "forward_kl",
    "hidden_state_cosine",
    "hidden_state_mse",
    "jensen_shannon",
    "logit_mse",
    "reverse_kl",
    "teacher_cross_entropy",
]
