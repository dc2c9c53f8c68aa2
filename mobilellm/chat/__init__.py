"""Talking with models: in a terminal, and on a page in a browser."""
