"""Checks calls of functions against the schemas of their arguments."""

from collections.abc import Sequence

from mobilellm.data.conversations.calls import Call
from mobilellm.inference.functions import Function


def check_call(call: Call, functions: Sequence[Function]) -> str | None:
    """Say what is wrong with a call.

    Args:
        call: from `mobilellm.data.conversations.calls.find_calls`.
        functions: those that may be called.

    Returns:
        None if the call is valid.

    Raises:
        ValueError: a function's parameters are not a valid JSON schema.
        ImportError: the package jsonschema is not installed.
    """
    from jsonschema import Draft202012Validator, exceptions

    known = {function.name: function for function in functions}
    if call.name not in known:
        return f"there is no function {call.name!r}; there are {', '.join(known)}"
    validator = Draft202012Validator(known[call.name].parameters)
    try:
        error = exceptions.best_match(validator.iter_errors(call.arguments))
    except Exception as fault:  # of a type or keyword that the schema misuses
        raise _wrong_schema(call.name, fault) from None
    if error is None:
        return None
    place = "".join(f"[{part!r}]" for part in error.absolute_path)
    return f"arguments{place}: {error.message}"


def check_schemas(functions: Sequence[Function]) -> None:
    """Check that the parameters of functions are JSON schemas.

    Raises:
        ValueError: one is not.
        ImportError: the package jsonschema is not installed.
    """
    from jsonschema import Draft202012Validator, exceptions

    for function in functions:
        try:
            Draft202012Validator.check_schema(dict(function.parameters))
        except exceptions.SchemaError as fault:
            raise _wrong_schema(function.name, fault.message) from None


def _wrong_schema(name: str, fault: object) -> ValueError:
    return ValueError(
        f"the parameters of function {name!r} are not a valid JSON schema ({fault}); correct them"
    )
