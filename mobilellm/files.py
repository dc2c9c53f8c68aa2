"""Names that several parts share, and what can be told of a file before it is read."""

from pathlib import Path

TOKENIZER_FILE = "tokenizer.model"
"""The SentencePiece model in a model's folder and in a data folder."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def describe_unread(path: Path) -> str | None:
    """Why a file of a model cannot be what it should be, and the remedy; None: not known.

    Both cases are common in clones and downloads of model repositories: a file of no bytes, and
    the pointer of a few lines that Git LFS leaves where the file itself was not fetched.
    """
    with path.open("rb") as file:
        begin = file.read(len(_LFS_POINTER))
    if not begin:
        return "is empty; fetch it again"
    if begin == _LFS_POINTER:
        return "is a Git LFS pointer and not the file itself; fetch that with `git lfs pull`"
    return None
