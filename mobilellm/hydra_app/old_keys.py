"""Refuses the nested keys of version 0.1, with the new key in the error message.

For example, `compression.compression.recipe.budget.ratio` is now `compression.budget.ratio`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mobilellm.cli.errors import CommandError
from mobilellm.recorded_config import NESTED, RECIPE

OLD_KEY = re.compile(
    r"(?P<prefix>[+~]*)(?:compression\.(?:compression|recipe)(?:\.recipe)?"
    r"|distillation\.(?:distillation|step_by_step))(?P<rest>\.[^=]+)?(?P<value>=.*)?",
    re.DOTALL,
)


def new_override(override: str) -> str | None:
    """The override that replaces one of version 0.1; None if it was not nested.

    An override of a whole node, such as `compression.compression=null`, becomes `compression=none`.
    """
    found = OLD_KEY.fullmatch(override.strip())
    if found is None:
        return None
    group = override.lstrip("+~ ").partition(".")[0]
    if not found["rest"]:
        return f"{group}=none"
    return f"{found['prefix']}{group}{found['rest']}{found['value'] or ''}"


def refuse_old_keys(overrides: Iterable[str]) -> None:
    """Refuse nested keys on the command line.

    Raises:
        CommandError: an override uses an old key; the message gives the new override.
    """
    for override in overrides:
        new = new_override(override)
        if new is not None:
            old = override.partition("=")[0].lstrip("+~")
            raise CommandError(
                f"{old} is a key of an earlier version, in which {old.partition('.')[0]} was "
                f"nested; write {new}"
            )


def refuse_old_nodes(config: Mapping[str, Any]) -> None:
    """Refuse nested settings in a YAML file.

    Raises:
        CommandError: a group has nested settings; the message gives the old key.
    """
    nested = {group: (*names, RECIPE) for group, names in NESTED.items()}
    for group, names in nested.items():
        node = config.get(group)
        if not isinstance(node, Mapping):
            continue
        for name in names:
            if isinstance(node.get(name), Mapping):
                raise CommandError(
                    f"a YAML file sets {group}.{name}, a key of an earlier version, in which "
                    f"{group} was nested; write the settings in it directly below {group}"
                )
