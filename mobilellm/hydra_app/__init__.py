"""Hydra: composing and checking configurations, and the command line."""
