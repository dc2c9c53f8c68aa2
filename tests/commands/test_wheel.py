"""The wheel alone, in an empty folder: its command trains, compares and generates."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["model=debug", "data=stdlib", "trainer=cpu", "max_steps=4", "sequence_length=32",
         "tokens_per_step=64", "validation_tokens=64", "data.max_megabytes=1"]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what the build needs, without network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("mobilellm", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, timeout=300)
    [file] = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`mobilellm` in an environment with the wheel and the packages that it needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    here = Path(sysconfig.get_path("purelib"))
    for entry in here.iterdir():
        # Not the project itself, which an editable install puts on the path.
        if not entry.name.startswith(("mobilellm", "__editable__")) and entry.suffix != ".pth":
            (Path(packages) / entry.name).symlink_to(entry.resolve())
    command = folder / "bin" / "mobilellm"
    command.write_text(
        f"#!{folder}/bin/python\nimport sys\nfrom mobilellm.__main__ import main\n\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n',
        encoding="utf-8",
    )
    command.chmod(0o755)
    return command


def run(command, *arguments, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(command), *arguments], cwd=cwd, env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300, encoding="utf-8",
    )  # fmt: skip


def test_the_wheel_holds_all_of_conf_and_its_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "mobilellm = mobilellm.__main__:main" in archive.read(entry_points).decode()
    conf = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {f"mobilellm/{file}" for file in conf} <= names
    assert "mobilellm/py.typed" in names
    assert "mobilellm/formats/huggingface/templates/modeling_mobilellm.py" in names
    assert not any(name.startswith(("conf/", "tests/", "scripts/")) for name in names)


def test_it_trains_compares_and_generates_in_an_empty_folder(installed, tmp_path):
    done = run(installed, "train", "-m", *SMALL, "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.parent for path in tmp_path.glob("outputs/default/*/summary.json"))
    assert len(runs) == 2
    summary = (runs[0] / "summary.json").read_text(encoding="utf-8")
    assert '"command": "mobilellm train -m model=debug' in summary
    done = run(installed, "compare", "outputs/default", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/default/comparison/index.html").exists()
    done = run(installed, "generate", str(runs[0]), "--prompt", "def", "--max-new-tokens", "4",
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("def"), done.stderr


def test_ones_own_files_are_found_with_config_dir(installed, tmp_path):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/mine.yaml").write_text(
        "defaults: [debug, _self_]\nnum_blocks: 3\n", encoding="utf-8"
    )
    done = run(installed, "explain", "model=mine", "--config-dir", "mine", "--cfg", "job",
               cwd=tmp_path)  # fmt: skip
    assert "num_blocks: 3" in done.stdout, done.stderr


def test_ranks_of_a_run_start_from_the_installed_command(installed, tmp_path):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    done = run(installed, "train", *SMALL, *two, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/default/*/model/model.safetensors"))) == 1
