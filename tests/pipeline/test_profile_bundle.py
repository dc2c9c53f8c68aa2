"""A bundle measures on a device that has Python and the engine's package only."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from simulated_sweep import write_sweep

from mobilellm.commands.device_profile import run
from mobilellm.evaluation.engine_profile.results import read_result
from mobilellm.files import sole_writer
from mobilellm.hydra_app.configuration import compose, instantiate
from mobilellm.pipeline.profile_bundle import needed_files
from mobilellm.report import compare

PRESETS = ("tiny_deep", "tiny_wide")


def test_the_files_of_a_bundle_need_the_standard_library_and_the_engine_only():
    llama = [path.stem for path in needed_files(["llamacpp"])]
    assert {"bundle_runner", "worker", "rounds", "llama_cpp"} <= set(llama)
    both = [path.stem for path in needed_files(["llamacpp", "executorch"])]
    assert set(both) - set(llama) == {"executorch_engine"}
    assert "torch_engine" not in both and "mobilellm" not in both


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tiny_deep", "--engines", "torch"], r"--bundle has no engine torch, which needs all of"),
        (["--engines", "llamacpp"], r"--bundle needs MODEL; give folders of models, or presets"),
        (["tiny_deep", "--engines", "llamacpp", "--page", "p"], r"--page has no effect with --bun"),
        (["tiny_deep", "--engines", "llamacpp", "--out", "o"], r"--out has no effect with --bundl"),
    ],
)
def test_what_a_bundle_cannot_have_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        run([*given, "--bundle", str(tmp_path / "bundle")])
    assert not list(tmp_path.iterdir())


def test_other_folders_beside_a_bundle_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    kept = [tmp_path / "bundle.files/kept", tmp_path / "bundle.exports/kept"]
    for path in kept:
        path.parent.mkdir()
        path.write_text("the user's", encoding="utf-8")
    given = ["tiny_deep", "--engines", "llamacpp", "--bundle"]
    run([*given, str(tmp_path / "bundle")])
    assert sorted(path for path in tmp_path.glob("bundle.*/*")) == sorted(kept)
    busy = tmp_path / "busy"
    with sole_writer("--bundle", busy), pytest.raises(ValueError, match="another process writes"):
        run([*given, str(busy)])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"--bundle=\. is the current folder, which cannot be rep"):
        run([*given, "."])
    (tmp_path / "other.exports").write_text("a file", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.exports is a file, not a folder; give another"):
        run([*given, str(tmp_path / "other")])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle", "bundle.exports", "bundle.files", "empty", "other.exports"
    ]  # fmt: skip


def device_python(folder: Path) -> str:
    """A Python that has the package xllamacpp and no other."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = folder / "packages"
    packages.mkdir()
    import xllamacpp

    installed = Path(xllamacpp.__file__).parent
    for path in installed.parent.glob("xllamacpp*"):
        (packages / path.name).symlink_to(path)
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    (Path(site) / "device.pth").write_text(f"{packages}\n", encoding="utf-8")
    return str(python)


@pytest.mark.slow
def test_a_bundle_runs_elsewhere_and_decides_at_equal_latency(tmp_path, capsys):
    pytest.importorskip("xllamacpp")
    bundle = tmp_path / "bundle"
    run([*PRESETS, "--engines", "llamacpp", "--types", "f32,f16", "--prompt-lengths", "4,8",
         "--tokens", "2", "--rounds", "30", "--bundle", str(bundle)])  # fmt: skip
    assert "python3 run.py" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert "| tiny_deep (random weights) | 12×80 | llamacpp | f16 |" in (
        bundle / "README.md"
    ).read_text(encoding="utf-8")
    away = bundle.rename(tmp_path / "copied")
    python = device_python(tmp_path / "device")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [python, "run.py", "--device", "a board", "--rounds", "3"]

    def measured(*more):
        return subprocess.run(
            [*command, *more], cwd=away, env=environment, capture_output=True, encoding="utf-8",
            check=False,
        )  # fmt: skip

    missing = subprocess.run(
        [sys.executable, "-S", "run.py"], cwd=away, env=environment, capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    assert missing.returncode == 2 and "pip install xllamacpp" in missing.stderr
    done = measured()
    assert done.returncode == 0, done.stderr
    assert "Results: " in done.stdout and "llamacpp/f16/1 of tiny_wide: load_ms " in done.stdout
    assert "results.json exists, and is not overwritten" in measured().stderr
    assert "--rounds 0 must be at least 1" in measured("--out", "b.json", "--rounds", "0").stderr
    results = away / "results.json"
    found = read_result(results)
    assert (found.device, found.num_rounds, len(found.results)) == ("a board", 3, 4)
    assert "xllamacpp" in found.versions and "torch" not in found.versions
    assert all(result.peak_memory_bytes > result.case.file_bytes for result in found.results)
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((away / "result.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(results.read_text(encoding="utf-8")), schema)
    run(["--results", str(results), "--fits", "1GB"])
    assert "a board, 3 rounds" in " ".join(capsys.readouterr().out.split())
    decides_at_equal_latency(tmp_path / "runs", results)


def decides_at_equal_latency(folder, results):
    """`compare` has its verdict from the results."""
    found = read_result(results)
    shapes = {name: (instantiate(compose("train", [f"model={name}"]).model), loss)
              for name, loss in zip(PRESETS, (4.1, 4.3), strict=True)}  # fmt: skip
    sweep = write_sweep(folder, shapes)
    compared = compare([sweep], latency_from=results, latency_setting="llamacpp/f16/1")
    said = " ".join(compared.findings)
    assert "At equal latency: " in said
    assert f"1 thread of a board, 8 tokens of context, llamacpp/f16/1 in {results}" in said
    record = json.loads((compared.folder / "comparison.json").read_text(encoding="utf-8"))
    measured = [found.results[number].spread("decode_ms", 1).median for number in (1, 3)]
    times = [shape["decode_ms_per_token"] for shape in record["shapes"]]
    assert sorted(times) == pytest.approx(sorted(measured))
    assert not (compared.folder / "latency.json").exists()
