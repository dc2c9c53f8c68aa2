"""The public name of the nearest sum of Kronecker products and of the layer that applies it."""

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.layers.kronecker import KroneckerLinear

__all__ = ["KroneckerLinear", "nearest_kronecker"]
