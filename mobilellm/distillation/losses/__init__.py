"""Losses that let a student learn from a teacher: pure functions on tensors, one per file."""
