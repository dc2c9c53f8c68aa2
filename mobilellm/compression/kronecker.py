"""Public import path of `nearest_kronecker` and `KroneckerLinear`."""

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.layers.kronecker import KroneckerLinear

__all__ = ["KroneckerLinear", "nearest_kronecker"]
