"""Losses of language models: cross entropy in chunks, label losses, loss terms."""
