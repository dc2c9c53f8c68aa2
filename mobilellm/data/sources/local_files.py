"""Local paths: files, folders and patterns."""

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm.data.source import Source, Split
from mobilellm.paths import user_path

logger = logging.getLogger(__name__)

Paths = str | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class LocalFiles(Source):
    """Files on this machine, given separately for each split.

    Raises:
        TypeError: a path is not a string.
    """

    train: Paths
    """A file, a folder, a pattern such as `corpus/*.txt`, or a list of these."""
    validation: Paths | None = None
    """The same for the validation split; default: documents are held out of `train`."""

    def __post_init__(self) -> None:
        """Convert lists to tuples, because the configuration is immutable."""
        for name in ("train", "validation"):
            value = getattr(self, name)
            if value is None and name == "validation":
                continue
            paths = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not paths or not all(isinstance(path, str | Path) for path in paths):
                raise TypeError(f"data.{name}={value!r} must be a path or a list of paths")
            if not all(map(str, paths)):
                raise ValueError(
                    f"data.{name} has an empty path; give files or folders (. is the current one)"
                )
            object.__setattr__(self, name, tuple(map(str, paths)))
        super().__post_init__()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that are read from a folder; empty: all files but hidden ones."""
        return ()

    @property
    def has_validation(self) -> bool:
        """Whether `validation` was given."""
        return self.validation is not None

    @property
    def default_name(self) -> str:
        """The name of the folder, or of the folder that contains the first file.

        If the corpus is a single file, the name of the file is appended, because another file in
        the same folder is another corpus.
        """
        first = user_path(self.train[0])
        fixed = next((p for p in (first, *first.parents) if not _is_pattern(p.name)), first)
        folder = fixed if fixed.is_dir() else fixed.absolute().parent
        name = folder.absolute().name or "corpus"
        is_whole = len(self.train) == 1 and self.validation is None and first.is_file()
        return f"{name}-{first.name.partition('.')[0]}" if is_whole else name

    def files(self, split: Split) -> list[Path]:
        """The files of a split, in the order of the paths and then of the names."""
        paths = self.train if split == "train" else self.validation or ()
        files = [
            file for path in paths for file in find_files(str(path), self.suffixes, f"data.{split}")
        ]
        if files and not any(file.stat().st_size for file in files):
            raise ValueError(
                f"data.{split}={_listed(paths)} is empty: {len(files)} files of 0 bytes; "
                "give files with text"
            )
        return files


def find_files(path: str, suffixes: tuple[str, ...], field: str) -> list[Path]:
    """List the files of a path, in order of name.

    Args:
        path: a file, a folder (searched recursively, following links) or a pattern.
        suffixes: suffixes of the files that are read from a folder; empty: all files but hidden
            ones.
        field: name of the setting, for messages.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the folder has no such files.
    """
    given = user_path(path)
    if given.is_file():
        return [given]
    if given.is_dir():
        files = [
            file
            for file in _visible_files(given)
            if (not suffixes or file.name.endswith(suffixes)) and _is_file(file, field)
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


def _visible_files(folder: Path) -> Iterator[Path]:
    """All files that are neither hidden nor in hidden folders; cycles of links are not followed."""

    def fail(error: OSError) -> None:
        raise error

    # Without `onerror`, `os.walk` silently skips folders that it is not allowed to read.
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        above = {os.path.realpath(parent), *map(str, Path(os.path.realpath(parent)).parents)}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not (
                os.path.islink(os.path.join(parent, name))
                and os.path.realpath(os.path.join(parent, name)) in above
            )
        ]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _is_file(file: Path, field: str) -> bool:
    """Whether a path is a file; a broken link is skipped with a warning."""
    if file.is_file():
        return True
    if file.is_symlink() and not file.exists():
        logger.warning("%s: skipping %s, which is a broken link", field, file)
    return False


def _is_pattern(path: str) -> bool:
    return any(character in path for character in "*?[")


def _listed(paths: Sequence[str]) -> str:
    return ",".join(map(str, paths))
