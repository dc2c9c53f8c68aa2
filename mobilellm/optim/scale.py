"""Factors of the settings of single parameters, relative to those of the whole optimizer."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn


class Scale(NamedTuple):
    """What the optimizer's settings are multiplied by for one parameter."""

    learning_rate: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


UNSCALED = Scale()

ScaleOf = Callable[[str, nn.Parameter], Scale]
"""Name of a parameter and the parameter to its scale."""
