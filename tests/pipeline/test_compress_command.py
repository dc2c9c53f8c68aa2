"""`scripts/compress.py`: a trained model made smaller without training, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import load_model
from mobilellm.launchers.configuration import compose
from mobilellm.pipeline.compress import compress_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_folder(tiny_run, tmp_path):
    summary = tiny_run("seed=3")
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))


@pytest.fixture
def options(corpus, tmp_path):
    return [
        "data=text", f"data.train={corpus}", "data.held_out=0.2",
        f"prepared_dir={tmp_path}/prepared", "sequence_length=32", "validation_tokens=512",
        "compression.compression.calibration_tokens=1024", "decode_tokens=4", "prefill_tokens=8",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kronecker", "searched", "sparsegpt", "structured"])
def test_a_model_is_compressed_measured_and_saved(name, run_folder, options, tmp_path, capsys):
    cfg = compose("compress", [f"compression={name}", *options])
    report = compress_folder(cfg, run_folder, tmp_path / "small")
    small, dense = load_model(tmp_path / "small"), load_model(run_folder / "model")
    rows = {row["model"]: row for row in report["models"]}
    counts = count_parameters(small.config)
    assert rows["compressed"]["parameters"]["stored"] == counts.stored
    assert rows["dense"]["parameters"]["stored"] == count_parameters(dense.config).stored
    for row in rows.values():
        assert row["loss"] > 0
        assert row["prefill_ms"] > 0
        assert row["decode_ms_per_token"] > 0
        assert row["peak_memory_bytes"] > 0
    assert ("low-rank twin" in rows) == (name in ("kronecker", "searched"))
    if "low-rank twin" in rows:
        twin = rows["low-rank twin"]["parameters"]["stored"]
        assert twin <= counts.stored < rows["dense"]["parameters"]["stored"]
    assert all(0 <= error < 1 for error in report["relative_errors"].values())
    assert json.loads((tmp_path / "small/compression.json").read_text()) == json.loads(
        json.dumps(report)
    )
    assert (tmp_path / "small/tokenizer.model").is_file()
    printed = capsys.readouterr().out
    assert "plan" in printed
    assert "loss, nats per token" in printed


@pytest.mark.parametrize("part", ["", "model"])
def test_a_run_is_compressed_on_its_own_data(part, run_folder, prepared_dir, options, tmp_path):
    before = sorted(prepared_dir.iterdir())
    own = [o for o in options if "data" not in o.partition("=")[0] and "prepared" not in o]
    report = compress_folder(compose("compress", own), run_folder / part, tmp_path / "out")
    assert report["validation_tokens"] > 0
    assert sorted(prepared_dir.iterdir()) == before, "it was tokenized a second time"


def test_a_model_without_its_run_needs_data(run_folder, tmp_path):
    shutil.copytree(run_folder / "model", tmp_path / "alone/model")
    with pytest.raises(ValueError, match=r"is no run's folder, .*; give data .*data=text"):
        compress_folder(compose("compress", []), tmp_path / "alone/model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(run_folder, options, tmp_path):
    with pytest.raises(ValueError, match="is in use and is never overwritten"):
        compress_folder(compose("compress", options), run_folder, run_folder)


def test_no_compression_is_refused(run_folder, options, tmp_path):
    cfg = compose("compress", ["compression=none", *options[:-3]])
    with pytest.raises(ValueError, match="compresses nothing; use one of kronecker, low_rank"):
        compress_folder(cfg, run_folder, tmp_path / "small")


def test_what_does_not_fit_exits_with_2_before_data_is_read(run_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/compress.py", str(run_folder), "--out", str(tmp_path / "small"),
         "compression=kronecker", "compression.compression.recipe.layers=[blocks.*.mlp.*]",
         f"prepared_dir={tmp_path}/none"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: layers='blocks.*.mlp.*' matches no matrix of the model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "small").exists()
