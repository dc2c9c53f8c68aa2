"""Spells commands of the project as the user types them, for help texts and messages."""

import sys
from pathlib import Path


def command_for(name: str) -> str:
    """Return another command of the project as the user would type it.

    Args:
        name: of the command, e.g. `prepare_data`.

    Returns:
        `python scripts/prepare_data.py` if a file of scripts/ is running, otherwise `mobilellm
        prepare-data`.
    """
    program = Path(sys.argv[0])
    if program.suffix == ".py" and program.parent.name == "scripts":
        return f"python {program.with_name(f'{name}.py')}"
    return f"mobilellm {name.replace('_', '-')}"
