"""Reads GGUF files of the Llama architecture, with the package `gguf`."""

from mobilellm.formats.gguf.model import import_gguf

__all__ = ["import_gguf"]
