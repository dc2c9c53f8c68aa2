"""Architecture search and training for deep-thin, sub-billion-parameter language models."""

__version__ = "0.1.0"
