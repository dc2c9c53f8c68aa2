"""Text files are UTF-8 whatever the locale: Python's own default is the locale's encoding."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_MODE = {"os.open", "webbrowser.open", "Image.open", "config.open"}
# These open bytes unless told otherwise.
PACKED = ("gzip.open", "bz2.open", "lzma.open")


def is_text_without_encoding(call):
    """Whether a call reads or writes text in the locale's encoding."""
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or function in WITHOUT_MODE:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if function.startswith("subprocess."):
        return "text" in given or "universal_newlines" in given
    return name in ("open", "fdopen") and _is_text_mode(call, function, given.get("mode"))


def _is_text_mode(call, function, mode):
    takes_path = function in ("open", "io.open", "os.fdopen", *PACKED)
    place = 1 if takes_path else 0
    if mode is None and len(call.args) > place:
        mode = call.args[place]
    if mode is None:
        return function not in PACKED
    if not (isinstance(mode, ast.Constant) and isinstance(mode.value, str)):
        return False
    return "t" in mode.value if function in PACKED else "b" not in mode.value


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='w')", True),
        ("path.open()", True),
        ("path.open('wb')", False),
        ("path.open('a', encoding='utf-8')", False),
        ("gzip.open(path)", False),
        ("gzip.open(path, 'wt')", True),
        ("os.open(path, os.O_RDONLY)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_what_counts_as_text_without_encoding(code, expected):
    assert is_text_without_encoding(ast.parse(code, mode="eval").body) is expected


@pytest.mark.parametrize("part", ["mobilellm", "scripts", "tests"])
def test_all_text_is_opened_as_utf8(part):
    without = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:60]}"
        for path in sorted((ROOT / part).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and is_text_without_encoding(node)
    ]
    assert not without


@pytest.mark.slow
def test_a_run_in_the_c_locale(tmp_path, tiny_overrides):
    text = "Ein übermäßig großer Text — voilà 五六七 𝄞.\n\n" * 600
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    overrides = [o for o in tiny_overrides if not o.startswith(("data", "callbacks", "prepared"))]
    done = subprocess.run(
        [
            sys.executable, ROOT / "scripts" / "train.py", *overrides, "data=text",
            "data.train=text.txt", "model.vocab_size=300", "prepared_dir=prepared",
            "max_tokens=256",             "validation_tokens=64", "seed=1",
        ],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    shown = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, shown
    # Not "?", as the locale's ASCII would have it.
    assert "FLOPs" in shown
    assert "·" in shown
    folder = next((tmp_path / "outputs" / "default").glob("*-*"))
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["seed"] == 1
