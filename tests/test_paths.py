"""Paths of the command line: `~` is the home folder, in quotes too."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH_METAVARS = {"MODEL_DIR", "DIR", "FOLDER", "RUN_OR_SWEEP_DIR"}
# Beside Hydra's overrides, whose paths `mobilellm.paths.expand_home_folders` reads.
COMMANDS = ("compare", "compress", "export", "generate", "import_", "status")


def arguments_of(script: Path) -> list[tuple[str, dict[str, ast.expr]]]:
    nodes = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    calls = [
        n for n in nodes
        if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "add_argument"
    ]  # fmt: skip
    return [(n.args[0].value, {k.arg: k.value for k in n.keywords}) for n in calls]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_path_of_a_command_line_knows_the_home_folder(name):
    paths = [
        (flag, options)
        for flag, options in arguments_of(ROOT / "mobilellm" / "commands" / f"{name}.py")
        if getattr(options.get("metavar"), "value", None) in PATH_METAVARS
        or flag in ("--out", "--tokenizer")
    ]
    assert paths
    for flag, options in paths:
        assert getattr(options.get("type"), "id", None) == "user_path", flag


def test_a_quoted_home_folder_is_read(tmp_path):
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, "scripts/status.py", "~/runs"],
        cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True,
        encoding="utf-8", check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert str(tmp_path / "runs") in done.stderr
