"""Converts errors that a user can correct to one-line messages; other errors are defects."""

import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence

USER_ERRORS = (ValueError, TypeError, OSError)


class CommandError(ValueError):
    """An error with a complete message: the given value, the requirement and the remedy."""


def describe_error(error: BaseException) -> str | None:
    """The message for an error that a user can cause, on one line; `None` for a defect."""
    exhausted = describe_exhausted_resource(error)
    if exhausted is not None:
        return exhausted
    if isinstance(error, UnicodeDecodeError):
        return one_line(f"{error}; the text must be UTF-8: convert it, e.g. with iconv")
    if isinstance(error, CommandError):
        return one_line(str(error))
    if isinstance(error, TypeError):
        return one_line(f"{error} (MOBILELLM_TRACEBACK=1 shows where)")
    return one_line(str(error)) if isinstance(error, USER_ERRORS) else None


def describe_exhausted_resource(error: BaseException) -> str | None:
    """The message for a full disk or for missing memory; `None` for any other error."""
    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in _chain(error)):
        return one_line(
            f"the disk is full ({error}); free space and run the same command again: "
            "everything written so far is kept"
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return one_line(
            f"out of memory ({error}); run the same command with a smaller micro_batch_size=… or "
            "with trainer.activation_checkpointing=true: neither changes the results, and with "
            "resume=true the run continues from its last checkpoint"
        )
    return None


def nearest(name: str, choices: Iterable[str], *, count: int, cutoff: float = 0.0) -> list[str]:
    """Up to `count` of `choices`, the most similar to `name` first.

    Args:
        name: the name that the user wrote.
        choices: the valid names; duplicates are ignored.
        count: largest number of names to return.
        cutoff: smallest similarity, from 0 (anything) to 1 (equal).
    """
    return difflib.get_close_matches(name, list(dict.fromkeys(choices)), n=count, cutoff=cutoff)


def listed(names: Sequence[str], *, limit: int = 12) -> str:
    """`a, b, c`, cut after `limit` names."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def one_line(message: str) -> str:
    """The message with every run of white space replaced by one space."""
    return " ".join(message.split())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
