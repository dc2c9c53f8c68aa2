"""What the README shows works: its Python, and the composition of its commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        re.sub(r"\s+#.*", "", line).removeprefix(".venv/bin/python ").strip()
        for line in re.sub(r"\\\n\s*", "", README).splitlines()
        if line.startswith(".venv/bin/python scripts/")
    }
)


def test_the_python_runs():
    [source] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    namespace: dict = {}
    exec(source, namespace)
    assert namespace["output"].logits.shape == (1, 16, 4096)
    assert namespace["tokens"].shape == (1, 21)


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.match(r"scripts/(train|prep)", c)])
def test_every_training_command_composes(command):
    from mobilellm.hydra_app.configuration import compose

    script, *arguments = shlex.split(command)
    overrides = [re.sub(r"=([\w.]+),.*", r"=\1", a) for a in arguments if "=" in a]
    root = Path(script).stem
    assert compose(root, overrides)


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py")))
def test_every_command_has_help(script):
    done = subprocess.run(
        [sys.executable, f"scripts/{script}", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
        encoding="utf-8",
    )  # fmt: skip
    assert len(done.stdout) > 200
