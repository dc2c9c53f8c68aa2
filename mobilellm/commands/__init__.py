"""The commands of `mobilellm NAME …`: one file each, whose `main` scripts/NAME.py calls too.

A new command is a new file: its name is that of the file, its summary the docstring's first
sentence.
"""

import argparse
import ast
import re
from pathlib import Path

from mobilellm.command_names import command_for

FOLDER = Path(__file__).parent


def modules() -> dict[str, str]:
    """Names of the commands, e.g. `prepare-data`, with the names of their modules."""
    stems = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    # `import` is a Python keyword and cannot be a module name, so its file is import_.py.
    return {stem.rstrip("_").replace("_", "-"): stem for stem in stems}


def summary(module: str) -> str:
    """The first sentence of a command's docstring, read without importing the command."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return " ".join(re.split(r"(?<=\.)\s", first)[0].split())


def description(docstring: str | None) -> str:
    """A command's docstring for `--help`, with commands written as the user started this one.

    `mobilellm prepare-data` becomes `python scripts/prepare_data.py` if scripts/ was used.
    """
    names = "|".join(sorted(modules(), key=len, reverse=True))
    return re.sub(
        rf"\bmobilellm ({names})\b",
        lambda found: command_for(found[1].replace("-", "_")),
        docstring or "",
    )


def command_parser(module: str, docstring: str | None) -> argparse.ArgumentParser:
    """A parser for a command's arguments, whose help begins with the command's docstring.

    Args:
        module: name of the command's script, such as `prepare_data`.
        docstring: of the command's module.
    """
    return argparse.ArgumentParser(
        prog=command_for(module),
        description=description(docstring),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
