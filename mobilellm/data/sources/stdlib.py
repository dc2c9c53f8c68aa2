"""The sources of the interpreter's standard library: real text that every machine has."""

import os
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Source, Split
from mobilellm.data.sources.documents import read_documents

_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3")


@dataclass(frozen=True, kw_only=True)
class StandardLibrary(Source):
    """The .py files of Python's standard library, one document each.

    Tests, installed packages and the file with the build settings of the interpreter are left out;
    `pydoc_data/topics.py`, the language reference, is included.
    """

    @property
    def default_name(self) -> str:
        """`stdlib`."""
        return "stdlib"

    def identity(self) -> Mapping[str, Any]:
        """The format."""
        return {"format": "stdlib"}

    def files(self, split: Split) -> list[Path]:
        """The files of `train`, in order of path.

        Raises:
            FileNotFoundError: this Python was installed without the sources.
        """
        if split != "train":
            return []
        root = Path(sysconfig.get_paths()["stdlib"])
        files: list[Path] = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not _is_left_out(name)]
            files += [
                Path(folder, name)
                for name in names
                if name.endswith(".py") and not _is_left_out(name)
            ]
        if not files:
            raise FileNotFoundError(
                f"this Python has no sources of its standard library in {root}; use data=text "
                "data.train=PATH"
            )
        return sorted(files, key=lambda file: file.relative_to(root).as_posix())

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All files, one document each."""
        yield from read_documents(self.files(split), "file")


@dataclass(frozen=True, kw_only=True)
class StandardLibraryData(StandardLibrary, DataConfig):
    """Training data from the standard library: `data=stdlib`."""


def _is_left_out(part: str) -> bool:
    return part in _LEFT_OUT or part.startswith(("config-", "_sysconfigdata"))
