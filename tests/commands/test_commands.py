"""The command `mobilellm`: what it lists, what it refuses, and that scripts/ start the same."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mobilellm.commands import description, modules, summary

ROOT = Path(__file__).parents[2]
COMMANDS = {"train", "prepare-data", "explain", "compare", "status", "compress", "prepare-logits",
            "generate", "import", "export", "coordinate-check", "device-profile"}  # fmt: skip


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        timeout=120, encoding="utf-8",
    )  # fmt: skip


def test_every_command_is_listed_in_80_columns():
    done = run("-m", "mobilellm", "--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line[:3].strip() and line.startswith("  ")} == (
        set(modules())
    )
    assert set(modules()) >= COMMANDS


def test_listing_the_commands_loads_nothing_heavy():
    code = (
        "import sys, mobilellm.__main__ as m; m.help_text(); "
        "print([x for x in ('torch', 'hydra', 'lightning', 'numpy', 'yaml') if x in sys.modules])"
    )
    assert run("-c", code).stdout.strip() == "[]"


def test_help_of_no_command_loads_torch():
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from mobilellm.commands import modules\n"
        "for module in modules().values():\n"
        "    try:\n"
        "        import_module(f'mobilellm.commands.{module}').main(['--help'])\n"
        "    except SystemExit:\n"
        "        if 'torch' in sys.modules:\n"
        "            sys.exit(f'the help of {module} loads torch')\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", modules().values())
def test_a_command_has_a_summary_a_main_and_a_script(module):
    assert summary(module).endswith(".")
    assert callable(import_module(f"mobilellm.commands.{module}").main)
    script = ROOT / "scripts" / f"{module.rstrip('_')}.py"
    assert f"from mobilellm.commands.{module} import main" in script.read_text(encoding="utf-8")


def test_an_unknown_command_names_the_nearest():
    done = run("-m", "mobilellm", "prepare_dta")
    assert done.returncode == 2
    assert "has no command prepare_dta; use one of prepare-data," in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("scripts/train.py", "python scripts/prepare_data.py data=text"),
        ("/x/bin/mobilellm", "mobilellm prepare-data data=text"),
    ],
)
def test_help_names_commands_as_the_user_started_this_one(monkeypatch, program, expected):
    monkeypatch.setattr(sys, "argv", [program])
    assert description("  mobilellm prepare-data data=text") == f"  {expected}"


@pytest.mark.parametrize("start", [["-m", "mobilellm", "explain"], ["scripts/explain.py"]])
def test_hydra_flags_work_in_both(start):
    done = run(*start, "model=debug", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "_target_: mobilellm.models.ModelConfig" in done.stdout


def test_the_help_of_search_lists_what_it_takes():
    done = run("-m", "mobilellm", "search", "--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout and "--multirun" not in done.stdout
    for group in ("search_space", "model", "data", "optimizer", "compression", "trainer"):
        assert f"\n  {group} " in done.stdout


@pytest.mark.parametrize("flag", ["-m", "--multirun", "hydra.mode=MULTIRUN"])
def test_search_refuses_a_sweep_before_anything_is_written(monkeypatch, tmp_path, capsys, flag):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        import_module("mobilellm.commands.search").main([flag, "model.vocab_size=512"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: search trains its trials by itself; leave out -m")
    assert message.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_help_of_compress_names_every_method():
    methods = {path.stem for path in (ROOT / "conf" / "compression").glob("*.yaml")}
    help_text = import_module("mobilellm.commands.compress").__doc__
    # `none` and `qat` need training.
    assert [
        one for one in methods - {"none", "qat"} if not re.search(rf"\b{one}\b", help_text)
    ] == []


def test_options_of_add_seeds_may_stand_between_the_overrides(monkeypatch):
    given = []
    monkeypatch.setattr(
        "mobilellm.pipeline.add_seeds.add_seeds",
        lambda overrides, most, **_: given.append((overrides, most)) or (None, 0),
    )
    import_module("mobilellm.commands.add_seeds").run(["a=1", "--max-seeds", "3", "b=2"])
    assert given == [(["a=1", "b=2"], 3)]


def test_options_of_a_command_reach_its_own_parser(tmp_path):
    done = run("-m", "mobilellm", "generate", "--help")
    assert done.stdout.startswith("usage: mobilellm generate")
    done = run("-m", "mobilellm", "status", str(tmp_path / "none"))
    assert done.returncode == 2 and "none" in done.stderr
