"""Overrides of the command line in readable form, for run names, tables and messages."""

import re
from collections.abc import Iterable, Mapping, Sequence

from mobilellm.run_settings import DERIVED_LIMITS, EPOCHS, is_identity

# Longest value, in characters, that is shown in full; longer ones are cut in the middle.
LONGEST_VALUE = 40


def override_key(override: str) -> str:
    """`model.num_blocks` of `+model.num_blocks=8`."""
    return override.partition("=")[0].lstrip("+~")


def override_value(override: str) -> str:
    """`8` of `+model.num_blocks=8`."""
    return override.partition("=")[2]


def is_shown(override: str) -> bool:
    """Whether it affects what is trained, rather than where, how fast or from which file."""
    key = override_key(override)
    is_choice = is_identity(key) or key in (*DERIVED_LIMITS, EPOCHS)
    return not key.startswith(("hydra", "experiment")) and is_choice


def shown_value(value: str) -> str:
    """A value short enough for a table.

    Of a path it is the last part, of a run folder the hash at its end (8 hexadecimal digits), and
    of a long list the number of items.
    """
    text = value.strip("'\"")
    if text.startswith("[") and len(text) > LONGEST_VALUE:
        return f"{text.count(',') + 1} values"
    if not text.startswith(("[", "{")):
        text = text.rstrip("/").rsplit("/", 1)[-1]
    if run := re.search(r"-([0-9a-f]{8})$", text):
        return run.group(1)
    if len(text) > LONGEST_VALUE:
        half = LONGEST_VALUE // 2
        text = f"{text[: half - 1]}…{text[-half:]}"
    return text


def shown_override(override: str) -> str:
    """`model.num_blocks=8`, with a long value shortened."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{value if len(value) <= LONGEST_VALUE else shown_value(value)}"


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, or the whole key if another one ends in the same part."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    names = list(last.values())
    return {key: name if names.count(name) == 1 else key for key, name in last.items()}


def varying_keys(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values differ between the runs, in order; a missing key counts as a value.

    Args:
        runs: the values of each run by key.
    """
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({run.get(key) for run in runs}) > 1]


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Values by key; if a key is given twice the last value counts, as in Hydra."""
    return {override_key(override): override_value(override) for override in overrides}
