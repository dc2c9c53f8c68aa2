"""Local paths: files, folders and patterns; opening them, decoding them."""

import glob
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mobilellm.data.source import Source, Split

Paths = str | Sequence[str]

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LocalFiles(Source):
    """Files on this machine, one split each.

    Raises:
        TypeError: a path that is no string.
    """

    train: Paths
    """A file, a folder, a pattern such as `corpus/*.txt`, or a list of these."""
    validation: Paths | None = None
    """The same for the validation split; default: documents are held out of `train`."""

    def __post_init__(self) -> None:
        """Make lists tuples, since the configuration is frozen."""
        for name in ("train", "validation"):
            value = getattr(self, name)
            if value is None and name == "validation":
                continue
            paths = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not paths or not all(isinstance(path, str | Path) for path in paths):
                raise TypeError(f"data.{name}={value!r} must be a path or a list of paths")
            object.__setattr__(self, name, tuple(map(str, paths)))
        super().__post_init__()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files taken from a folder; empty: all but hidden ones."""
        return ()

    @property
    def has_validation(self) -> bool:
        """Whether `validation` was given."""
        return self.validation is not None

    @property
    def default_name(self) -> str:
        """The folder's name, or the name of the folder that the first file lies in."""
        first = Path(self.train[0])
        fixed = next((p for p in (first, *first.parents) if not _is_pattern(p.name)), first)
        folder = fixed if fixed.is_dir() else fixed.absolute().parent
        return folder.absolute().name or "corpus"

    def files(self, split: Split) -> list[Path]:
        """The files of a split, each path's in order of name."""
        paths = self.train if split == "train" else self.validation or ()
        files = [
            file for path in paths for file in find_files(str(path), self.suffixes, f"data.{split}")
        ]
        if files and not any(file.stat().st_size for file in files):
            raise ValueError(
                f"data.{split}={_listed(paths)} is empty: {len(files)} files without a byte; "
                "give files with text"
            )
        return files


def find_files(path: str, suffixes: tuple[str, ...], field: str) -> list[Path]:
    """The files that a path stands for, in order of name.

    Args:
        path: a file, a folder (searched to any depth) or a pattern.
        suffixes: endings of the files taken from a folder; empty: all but hidden ones.
        field: name of the setting, for messages.

    Raises:
        FileNotFoundError: nothing has that path.
        ValueError: a folder without such files.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return [given]
    if given.is_dir():
        files = [
            file
            for file in given.rglob("*")
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(given).parts)
            and (not suffixes or file.name.endswith(suffixes))
        ]
        if not files:
            wanted = f" ending in {' or '.join(suffixes)}" if suffixes else ""
            raise ValueError(
                f"{field}={path} is empty: no files{wanted}; give a folder or file with text"
            )
        return sorted(files)
    found = glob.glob(str(given), recursive=True) if _is_pattern(path) else []
    files = sorted(Path(name) for name in found if Path(name).is_file())
    if not files:
        raise FileNotFoundError(
            f"{field}={path} does not exist{'' if given.is_absolute() else f' in {Path.cwd()}'}; "
            "give a file, a folder or a pattern"
        )
    return files


def open_binary(path: Path) -> IO[bytes]:
    """A file for reading; `.gz` is unpacked on the way."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # pyright: ignore[reportReturnType]


def read_utf8(path: Path) -> Iterator[bytes]:
    """Blocks of a file that each end with a whole character.

    Raises:
        ValueError: bytes that are not UTF-8, with their place.
    """
    carried, offset = b"", 0
    with open_binary(path) as file:
        while block := file.read(_BLOCK_BYTES):
            block, carried = carried + block, b""
            try:
                block.decode()
            except UnicodeDecodeError as error:
                if error.reason != "unexpected end of data":
                    raise _not_utf8(path, offset + error.start, block[error.start]) from None
                block, carried = block[: error.start], block[error.start :]
            offset += len(block)
            yield block
    if carried:
        raise _not_utf8(path, offset, carried[0])


def _not_utf8(path: Path, offset: int, byte: int) -> ValueError:
    return ValueError(
        f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset}; convert it, for instance "
        f"with `iconv -f latin1 -t utf-8`, or leave the file out"
    )


def _is_pattern(path: str) -> bool:
    return any(character in path for character in "*?[")


def _listed(paths: Sequence[str]) -> str:
    return ",".join(map(str, paths))
