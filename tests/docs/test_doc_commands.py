"""Every command in README.md and docs/ parses; those of Hydra compose, each trial of a sweep."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_parsing import ParsedError, parse
from doc_commands import ROOT, Command, all_commands, entry_point
from simulated_profile import true_time, write_profile

from mobilellm.commands import modules

COMMANDS = all_commands()
OURS = [c for c in COMMANDS if c.program == "mobilellm" or "scripts/" in c.line]
OTHER = [c for c in COMMANDS if c not in OURS]
# Commands of the system: nothing of ours stands behind them.
SYSTEM = {"source", "apt-get"}


@pytest.fixture
def example_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the files that must exist for a command to compose."""
    shape = "\n".join(["defaults: [tiny_deep]", "num_blocks: 6"])
    (tmp_path / "my_conf/model").mkdir(parents=True)
    (tmp_path / "my_conf/model/mine.yaml").write_text(shape, encoding="utf-8")
    write_profile(
        tmp_path / "device.json", depths=(2, 4, 16), widths=(32, 64, 128, 256, 512), vocab=2048,
        times=lambda model: 0.7 * true_time(model),
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_documented_command_parses_and_composes(command: Command, example_folders):
    with pytest.raises(ParsedError):
        parse(command)


@pytest.mark.parametrize("command", OTHER, ids=str)
def test_other_commands_name_things_that_exist(command: Command):
    if command.program == "make":
        targets = re.findall(
            r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert set(command.words[1:]) <= set(targets)
    elif command.program == "python":
        paths = [word for word in command.words[1:] if "/" in word]
        assert paths and all((ROOT / path).exists() for path in paths)
    else:
        assert command.program in SYSTEM


def test_the_documentation_shows_every_command():
    scripts = {path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("*.py")}
    assert scripts | set(modules()) <= {command.name for command in OURS}


def test_the_console_script_exists():
    module, _, function = entry_point().partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py")))
def test_every_command_has_help(script):
    done = subprocess.run(
        [sys.executable, f"scripts/{script}", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
        encoding="utf-8",
    )  # fmt: skip
    assert len(done.stdout) > 200
