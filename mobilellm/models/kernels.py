"""Limits of the attention kernels that the model runs; importable without torch."""

LEAST_FLEXIBLE_HEAD_DIM = 16
"""FlexAttention's kernels multiply matrices of at least this width."""
