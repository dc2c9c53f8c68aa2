"""Describe the errors of Hydra and OmegaConf in terms of the user's own configuration keys."""

import inspect
import re

from hydra.utils import get_object

from mobilellm.cli.errors import (
    CommandError,
    describe_error,
    describe_exhausted_resource,
    nearest,
    one_line,
)
from mobilellm.hydra_app.synonyms import meant_by


def describe_configuration_error(error: BaseException) -> str | None:
    """Like `cli.errors.describe_error`, but also for the errors of Hydra and OmegaConf."""
    if type(error).__module__.partition(".")[0] not in ("hydra", "omegaconf"):
        return describe_error(error)
    exhausted = describe_exhausted_resource(error)
    if exhausted is not None:
        return exhausted
    if type(error).__name__ == "InstantiationException":
        return _describe_instantiation(error)
    return _describe_composition(error)


def instantiation_cause(error: BaseException) -> tuple[str, BaseException]:
    """Path in the configuration and the original exception behind Hydra's wrapper.

    Args:
        error: an `InstantiationException`; anything else is returned unchanged.
    """
    path = ""
    while type(error).__name__ == "InstantiationException":
        key = re.search(r"full_key: (\S+)", str(error))
        path = path or (key.group(1) if key else "")
        if error.__cause__ is None:
            break
        if isinstance(error.__cause__, TypeError):
            return path, _list_fields(error.__cause__, str(error))
        error = error.__cause__
    return path, error


def parameters_of(target: str) -> list[str]:
    """Keyword arguments of the callable at a dotted path; empty if they cannot be determined."""
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:
        return []
    return [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def unknown_field(error: TypeError, target: str) -> TypeError:
    """An error about an unknown argument, with the arguments that exist.

    Args:
        error: raised by a call; returned unchanged if it is not about an unknown argument.
        target: dotted path of the callable.
    """
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
    return _UnknownFieldError(f"{owner} has no field {unknown.group(1)!r}; {remedy}")


class _UnknownFieldError(CommandError, TypeError):
    """An unknown field, with the fields that exist."""


def _list_fields(error: TypeError, wrapper: str) -> TypeError:
    """The constructor's error; one about an unknown field lists the fields that exist.

    Args:
        error: the error of the constructor.
        wrapper: the text of Hydra's exception around it, which names the constructor.
    """
    target = re.search(r"(?:to target '|partial\()([\w.]+)", wrapper)
    return error if target is None else unknown_field(error, target.group(1))


def _describe_instantiation(error: BaseException) -> str | None:
    path, cause = instantiation_cause(error)
    wrapper = str(error).partition(", set env var")[0]
    if cause is error:
        return one_line(wrapper)
    if isinstance(cause, ImportError):
        return one_line(f"{path}: {wrapper}: {str(cause).splitlines()[-1]}")
    message = describe_configuration_error(cause)
    return one_line(f"{path}: {message}" if path else message) if message else None


def _describe_composition(error: BaseException) -> str:
    name = type(error).__name__
    found = re.search(r"full_key: (\S+)", str(error))
    key = found.group(1) if found else ""
    message = re.split(r"\n\s*(?:full_key|object_type|Config search path)", str(error))[0]
    if name == "MissingMandatoryValue" and key:
        return f"{key} is required and not given; set {key}=…"
    if key and (name == "InterpolationKeyError" or key not in message):
        message = f"{key}: {message}"
    return one_line(message)
