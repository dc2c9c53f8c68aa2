"""The console that commands print their tables to."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def make_console(width: int) -> "Console":
    """Make a console that is as wide as the terminal, or as the environment variable COLUMNS says.

    Args:
        width: characters per line if standard output is no terminal and COLUMNS is not set.
    """
    from rich.console import Console  # slow to import, and `--help` does not need it

    is_known = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console(width=None if is_known else width, highlight=False)
