"""Evaluation of models: validation loss, accuracy of answers, and latency."""
