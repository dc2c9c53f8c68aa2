"""Turn an exception into the one line a user needs, or say that it is a defect."""

import difflib
import errno
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence

from mobilellm.cli.synonyms import meant_by

USER_ERRORS = (ValueError, TypeError, OSError)


class CommandError(ValueError):
    """A message that is already complete: what was given, what is required, what to do."""


def describe_error(error: BaseException) -> str | None:
    """The message for what a user can cause, on one line; `None` for anything unexpected."""
    if any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in _chain(error)):
        return _one_line(
            f"the disk is full ({error}); free space and start the same command again: "
            "what was written so far is kept"
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return _one_line(
            f"out of memory ({error}); give the same command a smaller micro_batch_size=…, or "
            "trainer.activation_checkpointing=true: it is the same run, and with resume=true it "
            "goes on from its last checkpoint"
        )
    package = type(error).__module__.partition(".")[0]
    if package in ("hydra", "omegaconf"):
        return _describe_configuration_error(error)
    if isinstance(error, UnicodeDecodeError):
        return _one_line(f"{error}; the text must be UTF-8: convert it, e.g. with iconv")
    if isinstance(error, TypeError):
        return _one_line(f"{error} (MOBILELLM_TRACEBACK=1 shows where)")
    return _one_line(str(error)) if isinstance(error, USER_ERRORS) else None


def nearest(name: str, choices: Iterable[str], *, count: int, cutoff: float = 0.0) -> list[str]:
    """Up to `count` of `choices`, the one most like `name` first.

    Only the last part of a dotted name is compared when the parts before it are the same, so that
    a typo in a long path still finds its neighbours.
    """
    return difflib.get_close_matches(name, list(dict.fromkeys(choices)), n=count, cutoff=cutoff)


def instantiation_cause(error: BaseException) -> tuple[str, BaseException]:
    """Path in the configuration and the original exception behind Hydra's wrapper.

    Args:
        error: an `InstantiationException`, or anything else, which is returned as it is.
    """
    path = ""
    while type(error).__name__ == "InstantiationException":
        key = re.search(r"full_key: (\S+)", str(error))
        path = path or (key.group(1) if key else "")
        if error.__cause__ is None:
            break
        if isinstance(error.__cause__, TypeError):
            return path, _name_the_fields(error.__cause__, str(error))
        error = error.__cause__
    return path, error


def parameters_of(target: str) -> list[str]:
    """Names that the callable at a dotted path accepts; empty where they cannot be told."""
    from hydra.utils import get_object

    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:
        return []
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _name_the_fields(error: TypeError, wrapper: str) -> TypeError:
    """Say which fields there are where a constructor was given one that it does not know."""
    target = re.search(r"(?:to target '|partial\()([\w.]+)", wrapper)
    return error if target is None else unknown_field(error, target.group(1))


def unknown_field(error: TypeError, target: str) -> TypeError:
    """The error of a callable at a dotted path; one about an unknown argument names the known."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    fields = parameters_of(target)
    if unknown is None or not fields:
        return error
    near = nearest(unknown.group(1), fields, count=len(fields))
    owner = target.rpartition(".")[2]
    remedy = meant_by(unknown.group(1), fields) or meant_by(unknown.group(1))
    if remedy is None or remedy in fields:
        remedy = f"use {remedy}" if remedy else f"use one of {', '.join(near)}"
    else:
        remedy = f"here it is {remedy}"
    return _CompleteTypeError(f"{owner} has no field {unknown.group(1)!r}; {remedy}")


class _CompleteTypeError(CommandError, TypeError):
    """An unknown field, with the known ones listed."""


def _describe_configuration_error(error: BaseException) -> str | None:
    name = type(error).__name__
    if name == "InstantiationException":
        path, cause = instantiation_cause(error)
        if cause is error:
            return _one_line(str(error).partition(", set env var")[0])
        if isinstance(cause, ImportError):
            message = f"{error}".partition(", set env var")[0]
            return _one_line(f"{path}: {message}: {str(cause).splitlines()[-1]}")
        message = describe_error(cause)
        return _one_line(f"{path}: {message}" if path else message) if message else None
    key = re.search(r"full_key: (\S+)", str(error))
    message = re.split(r"\n\s*(?:full_key|object_type|Config search path)", str(error))[0]
    if name == "MissingMandatoryValue" and key:
        return f"{key.group(1)} is required and not given; set {key.group(1)}=…"
    if name == "InterpolationKeyError" and key:
        return _one_line(f"{key.group(1)}: {message}")
    if key and key.group(1) not in message:
        message = f"{key.group(1)}: {message}"
    return _one_line(message)


def listed(names: Sequence[str], *, limit: int = 12) -> str:
    """`a, b, c`, cut after `limit` names."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _one_line(message: str) -> str:
    return " ".join(message.split())
