"""Composing and checking configurations with Hydra, and Hydra's command line."""
