"""The named baseline, for tests about AdamW, the cosine schedule, or runs of earlier versions."""

ADAMW_COSINE = ["optimizer=adamw", "schedule=cosine", "optimizer.learning_rate=2e-3"]
"""Overrides: the baseline with the learning rate that it had as the default of version 0.2."""
