"""Architecture search and training for deep-thin, sub-billion-parameter language models."""

from mobilellm.version import __version__

__all__ = ["__version__"]
