"""The commands and code blocks of README.md and docs/, taken out of the Markdown."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One command line of a `sh` block."""

    page: str
    line: str
    words: tuple[str, ...] = field(repr=False)
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def program(self) -> str:
        """`mobilellm`, `make`, `python`, …"""
        return self.words[0]

    @property
    def name(self) -> str:
        """The command of `mobilellm`, or the stem of the script: `prepare-data`."""
        word = next((w for w in self.words if w.startswith("scripts/")), None)
        name = Path(word).stem if word else self.words[1] if len(self.words) > 1 else ""
        return name.replace("_", "-")

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the command's name or the script."""
        first = next((i for i, w in enumerate(self.words) if w.startswith("scripts/")), 1)
        return self.words[first + 1 :]

    def __str__(self) -> str:
        """For the names of tests."""
        return f"{self.page}: {self.line[:60]}"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [source for name, source in found if name == language]


def commands_of(page: Path) -> Iterator[Command]:
    """The lines of the page's `sh` blocks, without comments, with continued lines joined."""
    for block in blocks(page, "sh"):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            count = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
            environment = tuple(tuple(word.split("=", 1)) for word in words[:count])
            text = " ".join(words[count:])
            yield Command(page.name, text, tuple(words[count:]), environment)  # pyright: ignore


def all_commands() -> list[Command]:
    """Every different command of the documentation, in the order of the pages."""
    return list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))


def entry_point() -> str:
    """`module:function` that pyproject.toml gives the console script `mobilellm`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["scripts"]["mobilellm"]
