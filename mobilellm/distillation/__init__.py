"""Distillation: losses with which a student learns from a teacher, teachers, and logit stores.

Each loss consists of a pure function on tensors (`forward_kl`) and a class with its settings
(`ForwardKL`), which configurations instantiate. Both are in the file with the name of the function.
"""

from typing import Any

from mobilellm.distillation.losses.attention_kl import AttentionKL, attention_kl
from mobilellm.distillation.losses.direct_preference import DirectPreference, direct_preference
from mobilellm.distillation.losses.forward_kl import ForwardKL, forward_kl
from mobilellm.distillation.losses.hidden_state_cosine import HiddenStateCosine, hidden_state_cosine
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE, hidden_state_mse
from mobilellm.distillation.losses.jensen_shannon import JensenShannon, jensen_shannon
from mobilellm.distillation.losses.layer_map import Explicit, Last, Uniform
from mobilellm.distillation.losses.logit_mse import LogitMSE, logit_mse
from mobilellm.distillation.losses.reverse_kl import ReverseKL, reverse_kl
from mobilellm.distillation.losses.schedule import Ramp
from mobilellm.distillation.losses.skewed_kl import SkewedKL, skewed_kl
from mobilellm.distillation.losses.teacher_cross_entropy import (
    TeacherCrossEntropy,
    teacher_cross_entropy,
)
from mobilellm.public_names import import_public_class

__all__ = [
    "AttentionKL",
    "DirectPreference",
    "Explicit",
    "ForwardKL",
    "HiddenStateCosine",
    "HiddenStateMSE",
    "JensenShannon",
    "Last",
    "LogitMSE",
    "Ramp",
    "ReverseKL",
    "SkewedKL",
    "TeacherCrossEntropy",
    "Uniform",
    "attention_kl",
    "direct_preference",
    "forward_kl",
    "hidden_state_cosine",
    "hidden_state_mse",
    "jensen_shannon",
    "logit_mse",
    "reverse_kl",
    "skewed_kl",
    "teacher_cross_entropy",
]


def __getattr__(name: str) -> Any:
    """Import a loss that is not listed above from its file in `losses/`."""
    return import_public_class(__name__, name, files=f"{__name__}.losses")
