"""Writes commands of the project as the user would type them, for help texts and messages."""

import sys
from pathlib import Path


def command_for(name: str) -> str:
    """How the user runs another command of the project: in the same way as the current one.

    Args:
        name: of the command, e.g. `status`.

    Returns:
        `python scripts/status.py` if a file of scripts/ is running, else `mobilellm status`.
    """
    program = Path(sys.argv[0])
    if program.suffix == ".py" and program.parent.name == "scripts":
        return f"python {program.with_name(f'{name}.py')}"
    return f"mobilellm {name.replace('_', '-')}"
