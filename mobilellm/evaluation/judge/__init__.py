"""Compares the answers of two models by a third one, the judge."""
