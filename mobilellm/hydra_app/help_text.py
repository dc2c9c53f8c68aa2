"""The text of `--help` of a Hydra command, made from the YAML files of conf/."""

import re
import textwrap
from pathlib import Path

FLAGS = """\
  --cfg job            print the composed configuration and stop (--resolve: with values filled in)
  --info defaults      list the files that it is composed from (also: config, plugins, searchpath)
  --config-dir DIR     your own folder, laid out like conf/: model=mine reads DIR/model/mine.yaml
  --hydra-help         all flags of Hydra
"""
SWEEP_FLAG = """\
  -m, --multirun       run every combination of comma-separated values: seed=0,1 model=a,b
"""
TRACEBACK = "MOBILELLM_TRACEBACK=1 shows the traceback of an error.\n"


def help_text(
    folder: Path, config_name: str, description: str, flags: str = "", *, has_sweeps: bool = True
) -> str:
    """Description, groups with their choices, keys with their defaults, and flags.

    Args:
        folder: the configuration folder.
        config_name: the root configuration.
        description: what the command does, with examples.
        flags: lines on further flags.
        has_sweeps: whether the command takes `-m`.
    """
    parts = [
        textwrap.dedent(description).strip(),
        "Arguments are key=value (`+group.key=value` adds one that is not in the file).",
    ]
    path = folder / f"{config_name}.yaml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if groups := _groups(folder, text):
        width = max(map(len, groups)) + 2
        lines = [
            textwrap.fill(
                ", ".join(choices),
                width=100,
                initial_indent=f"  {group:<{width}}",
                subsequent_indent=" " * (width + 2),
            )
            for group, choices in groups.items()
        ]
        parts.append("Groups and their choices (group=choice):\n" + "\n".join(lines))
    if keys := _keys(text):
        parts.append("Keys, with their defaults:\n" + "\n".join(keys))
    listed = "Flags:\n" + (SWEEP_FLAG if has_sweeps else "") + FLAGS + flags
    return "\n\n".join([*(p for p in parts if p), listed + TRACEBACK])


def _groups(folder: Path, text: str) -> dict[str, list[str]]:
    """Groups of the defaults list, and the launchers if the command has experiments."""
    entries = _entries(folder, text)
    groups = {entry: _choices(folder / entry) for entry in entries}
    launchers = _choices(folder / "hydra" / "launcher")
    if launchers and any(entry.startswith("experiment") for entry in entries):
        groups["hydra/launcher"] = ["basic", *launchers]
    return {group: choices for group, choices in groups.items() if choices}


def _entries(folder: Path, text: str) -> list[str]:
    """Groups of the defaults list, and of the files of the folder that it includes."""
    defaults = re.search(r"^defaults:\n((?:[ \t]*[-#].*\n|\s*\n)*)", text, re.MULTILINE)
    entry = r"^\s*-\s*(?:optional\s+|override\s+)*/?([\w/]+)[ \t]*(:|$)"
    found: list[str] = []
    for name, colon in re.findall(entry, defaults.group(1), re.MULTILINE) if defaults else []:
        included = folder / f"{name}.yaml"
        if colon:
            found.append(name)
        elif included.exists():
            found += _entries(folder, included.read_text(encoding="utf-8"))
    return found


def _choices(group: Path) -> list[str]:
    """Files of a group; those in a folder `shared` are parts of the others."""
    return sorted(
        file.relative_to(group).with_suffix("").as_posix()
        for file in group.rglob("*.yaml")
        if file.parent.name != "shared"
    )


def _keys(text: str) -> list[str]:
    """Keys of the root configuration, each with the comment above or beside it."""
    lines: list[str] = []
    comments: list[str] = []
    in_root_block = ""
    for line in text.splitlines():
        if line.startswith("#"):
            comments.append(f"  {line}")
        elif match := re.match(r"(\w+):(.*)", line):
            in_root_block = match.group(1)
            if in_root_block not in ("defaults", "hydra"):
                lines += [*comments, f"  {line}"]
            comments = []
        elif line.startswith((" ", "-")) and in_root_block not in ("defaults", "hydra", ""):
            lines.append(f"  {line}")
        elif not line.strip():
            comments = []
    return lines
