"""Losses that let a student learn from a teacher: pure functions on tensors, one a file.

Configuration names their classes by this package (`mobilellm.distillation.ForwardKL`), where a
function bears its file's name.
"""

from mobilellm.distillation.losses.attention_kl import AttentionKL, attention_kl
from mobilellm.distillation.losses.forward_kl import ForwardKL, forward_kl
from mobilellm.distillation.losses.hidden_state_cosine import HiddenStateCosine, hidden_state_cosine
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE, hidden_state_mse
from mobilellm.distillation.losses.jensen_shannon import JensenShannon, jensen_shannon
from mobilellm.distillation.losses.logit_mse import LogitMSE, logit_mse
from mobilellm.distillation.losses.reverse_kl import ReverseKL, reverse_kl
from mobilellm.distillation.losses.teacher_cross_entropy import (
    TeacherCrossEntropy,
    teacher_cross_entropy,
)

__all__ = [
    "AttentionKL",
    "ForwardKL",
    "HiddenStateCosine",
    "HiddenStateMSE",
    "JensenShannon",
    "LogitMSE",
    "ReverseKL",
    "TeacherCrossEntropy",
    "attention_kl",
    "forward_kl",
    "hidden_state_cosine",
    "hidden_state_mse",
    "jensen_shannon",
    "logit_mse",
    "reverse_kl",
    "teacher_cross_entropy",
]
