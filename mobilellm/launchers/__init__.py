"""Hydra launchers and what they start: one process per trial, here or on a cluster."""
