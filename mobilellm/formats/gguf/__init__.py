"""Reads and writes GGUF files, the format of llama.cpp, with the package `gguf`."""

from mobilellm.formats.gguf.export import export_gguf
from mobilellm.formats.gguf.model import import_gguf
from mobilellm.formats.gguf.summary import GgufExport

__all__ = ["GgufExport", "export_gguf", "import_gguf"]
