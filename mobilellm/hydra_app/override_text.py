"""Overrides of the command line as people read them: in names of runs, tables and messages."""

import re
from collections.abc import Iterable, Mapping, Sequence

from mobilellm.run_folder import is_identity

# Longest value that is shown as a whole; longer ones lose their middle.
LONGEST_VALUE = 40


def override_key(override: str) -> str:
    """`model.num_blocks` of `+model.num_blocks=8`."""
    return override.partition("=")[0].lstrip("+~")


def override_value(override: str) -> str:
    """`8` of `+model.num_blocks=8`."""
    return override.partition("=")[2]


def is_shown(override: str) -> bool:
    """Whether it says what is trained, and not where, how fast, or by which experiment's file."""
    key = override_key(override)
    return not key.startswith(("hydra", "experiment")) and is_identity(key)


def shown_value(value: str) -> str:
    """A value that fits into a table: paths as their last part, lists of several as how many.

    A run's folder is shown as its hash, the last eight digits of its name.
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
    """`model.num_blocks=8`, a long value shortened."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{value if len(value) <= LONGEST_VALUE else shown_value(value)}"


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each dotted key's last part, or all of it where another one ends the same."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    names = list(last.values())
    return {key: name if names.count(name) == 1 else key for key, name in last.items()}


def varying_keys(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values differ between the runs, those that some lack included, in their order.

    Args:
        runs: key to value of each run.
    """
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({run.get(key) for run in runs}) > 1]


def by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Key to value; of several values the last counts, as it does for Hydra."""
    return {override_key(override): override_value(override) for override in overrides}
