"""`mobilellm COMMAND …`: the installed command, also as `python -m mobilellm`."""

import sys
import textwrap
from importlib import import_module

from mobilellm.cli.command import run_command
from mobilellm.cli.errors import CommandError, listed, nearest
from mobilellm.commands import modules, summary
from mobilellm.version import __version__

WIDTH = 80
EPILOG = "mobilellm COMMAND --help explains a command."


def main() -> None:
    """Run the command that the command line names, or list the commands."""
    name, *rest = sys.argv[1:] or ["--help"]
    known = modules()
    if name in known:
        import_module(f"mobilellm.commands.{known[name]}").main(rest)
    elif name in ("-h", "--help"):
        sys.stdout.write(help_text())
    elif name == "--version":
        sys.stdout.write(f"mobilellm {__version__}\n")
    else:
        run_command(lambda: _refuse(name))


def help_text() -> str:
    """Return a list of the commands, with one sentence about each."""
    known = modules()
    width = max(map(len, known)) + 2
    lines = [
        textwrap.fill(
            summary(module),
            width=WIDTH,
            initial_indent=f"  {name:<{width}}",
            subsequent_indent=" " * (width + 2),
        )
        for name, module in known.items()
    ]
    return "\n".join(["usage: mobilellm COMMAND …", "", *lines, "", EPILOG, ""])


def _refuse(name: str) -> None:
    near = nearest(name.replace("_", "-"), modules(), count=len(modules()))
    raise CommandError(f"mobilellm has no command {name}; use one of {listed(near)}")


if __name__ == "__main__":
    main()
