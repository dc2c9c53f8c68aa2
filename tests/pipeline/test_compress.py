"""`scripts/compress.py`: a trained model made smaller without training, and what it refuses."""

import json
import logging
import shutil

import pytest
import torch
from command_process import run_command

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import load_model, save_model
from mobilellm.compression.factorization import Factorization
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.compress import compress_folder


@pytest.fixture
def options(corpus, prepared_dir):
    return [
        "data=text", f"data.train={corpus}", "data.held_out=0.2",
        f"prepared_dir={prepared_dir}", "sequence_length=32", "validation_tokens=512",
        "compression.calibration_tokens=1024", "decode_tokens=4", "prefill_tokens=8",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kronecker", "searched", "sparsegpt", "structured"])
def test_a_model_is_compressed_measured_and_saved(
    name, tiny_run_folder, options, tmp_path, capsys, caplog
):
    # The search fits models for each of many divisions of the budget: few matrices are enough.
    few = ["compression.layers=[blocks.1.feed_forward.*]"] if name == "searched" else []
    cfg = compose("compress", [f"compression={name}", *options, *few])
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        report = compress_folder(cfg, tiny_run_folder, tmp_path / "small")
    small, dense = load_model(tmp_path / "small"), load_model(tiny_run_folder / "model")
    rows = {row.model: row.to_dict() for row in report.models}
    counts = count_parameters(small.config)
    assert rows["compressed"]["parameters"]["stored"] == counts.stored
    assert rows["dense"]["parameters"]["stored"] == count_parameters(dense.config).stored
    for row in rows.values():
        assert row["loss"] > 0
        assert row["prefill_ms"] > 0
        assert row["decode_ms_per_token"] > 0
        assert row["peak_memory_bytes"] > row["disk_bytes"] > 0
    assert ("low-rank twin" in rows) == (name in ("kronecker", "searched"))
    if "low-rank twin" in rows:
        twin = rows["low-rank twin"]["parameters"]["stored"]
        assert twin <= counts.stored < rows["dense"]["parameters"]["stored"]
    assert all(0 <= error < 1 for error in report.relative_errors.values())
    assert json.loads(
        (tmp_path / "small/compression.json").read_text(encoding="utf-8")
    ) == json.loads(json.dumps(report.to_dict()))
    assert (tmp_path / "small/tokenizer.model").is_file()
    header = 200 * len(small.state_dict())
    written = (tmp_path / "small/model.safetensors").stat().st_size
    assert 0 < written - rows["compressed"]["disk_bytes"] < header
    assert not (tmp_path / "small/plan.json").exists(), "the report has it"
    assert ("the search takes about" in caplog.text) == (name == "searched")
    printed = capsys.readouterr().out
    assert printed.index("plan") < printed.index("kept") < printed.index("loss, nats per token")
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    if name == "sparsegpt":
        all_matrices = next(line for line in printed.splitlines() if line.startswith(" all "))
        assert " 50.0% " in all_matrices
        assert rows["compressed"]["disk_bytes"] < rows["dense"]["disk_bytes"]


@pytest.mark.parametrize("part", ["", "model"])
def test_a_run_is_compressed_on_its_own_data(
    part, tiny_run_folder, prepared_dir, options, tmp_path
):
    before = sorted(prepared_dir.iterdir())
    own = [o for o in options if "data" not in o.partition("=")[0] and "prepared" not in o]
    own += ["compression=low_rank", "latency=false"]
    report = compress_folder(compose("compress", own), tiny_run_folder / part, tmp_path / "out")
    assert report.validation_tokens > 0
    assert sorted(prepared_dir.iterdir()) == before, "it was tokenized a second time"


def test_a_model_without_its_run_needs_data(tiny_run_folder, tmp_path):
    shutil.copytree(tiny_run_folder / "model", tmp_path / "alone/model")
    with pytest.raises(ValueError, match=r"is not the folder of a run, .*; give data .*data=text"):
        compress_folder(compose("compress", []), tmp_path / "alone/model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(tiny_run_folder, options, tmp_path):
    with pytest.raises(ValueError, match="is in use and is never overwritten"):
        compress_folder(compose("compress", options), tiny_run_folder, tiny_run_folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_missing_is_refused(tiny_run_folder, options, tmp_path):
    for device, message in (
        ("cuda", "device=cuda is not available here; use device=cpu"),
        ("gpu", "device='gpu' must be"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_folder(
                compose("compress", [*options, f"device={device}"]),
                tiny_run_folder,
                tmp_path / "out",
            )


def test_no_compression_is_refused(tiny_run_folder, options, tmp_path):
    cfg = compose("compress", ["compression=none", *options[:-3]])
    with pytest.raises(
        ValueError, match="compresses nothing; use one of awq, gptq, kronecker, low_rank"
    ):
        compress_folder(cfg, tiny_run_folder, tmp_path / "small")


def test_what_does_not_fit_exits_with_2_before_data_is_read(tiny_run_folder, tmp_path):
    done = run_command(
        "compress", tiny_run_folder, "--out", tmp_path / "small", "compression=kronecker",
        "compression.layers=[blocks.*.mlp.*]", f"prepared_dir={tmp_path}/none",
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: layers='blocks.*.mlp.*' matches no matrix of the model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "small").exists()


def test_the_number_type_of_the_weights_is_kept(tiny_run_folder, options, tmp_path):
    half = tmp_path / "half"
    save_model(
        load_model(tiny_run_folder / "model").bfloat16(),
        half,
        tiny_run_folder / "model/tokenizer.model",
    )
    cfg = compose("compress", ["compression=low_rank", "latency=false", *options])
    report = compress_folder(cfg, half, tmp_path / "small")
    small = load_model(tmp_path / "small")
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}
    dense, compressed = report.models
    assert dense.disk_bytes == 2 * dense.parameters.stored
    assert compressed.disk_bytes == 2 * compressed.parameters.stored


def test_what_was_compressed_before_is_called_so(tiny_run_folder, options, tmp_path):
    masked, out = tmp_path / "masked", tmp_path / "twice"
    quick = [*options, "latency=false"]
    compress_folder(compose("compress", ["compression=magnitude", *quick]), tiny_run_folder, masked)
    layers = "compression.layers=[embedding]"
    cfg = compose("compress", ["compression=low_rank", layers, *quick])
    report = compress_folder(cfg, masked, out)
    assert [row.model for row in report.models] == ["given, masked", "compressed"]
    assert report.source == str(masked)
    assert report.budget.used <= report.budget.allowed


def test_a_plan_is_kept_as_soon_as_it_is_made(
    tiny_run_folder, options, tmp_path, monkeypatch, capsys
):
    def killed(*_):
        raise KeyboardInterrupt

    def not_again(*_):
        raise AssertionError("it was planned again")

    options, out = ["compression=low_rank", "latency=false", *options], tmp_path / "small"
    with monkeypatch.context() as patched:
        patched.setattr(Factorization, "apply", killed)
        with pytest.raises(KeyboardInterrupt):
            compress_folder(compose("compress", options), tiny_run_folder, out)
    other = compose("compress", [*options, "compression.fit=weights"])
    with pytest.raises(ValueError, match=r"plan of another compression \(recipe differ\)"):
        compress_folder(other, tiny_run_folder, out)
    monkeypatch.setattr(Factorization, "plan", not_again)
    report = compress_folder(compose("compress", options), tiny_run_folder, out)
    assert "continuing from the plan" in capsys.readouterr().err
    assert load_model(out).config.layer_shapes.keys() == {
        layer.name for layer in report.plan.layers
    }
    assert not (out / "plan.json").exists()
    with pytest.raises(ValueError, match="is in use and is never overwritten"):
        compress_folder(compose("compress", options), tiny_run_folder, out)


@pytest.mark.parametrize("setting", [
    "num_stages=2", "order=backward", "groups=[[blocks.*]]", "first_start=0.5",
    "recovery_share=0.2",
])  # fmt: skip
def test_stages_are_refused_and_not_ignored(setting, tiny_run_folder, options, tmp_path):
    name = setting.partition("=")[0]
    overrides = ["compression=low_rank", *options, f"compression.{setting}"]
    if name == "groups":
        overrides.append("compression.num_stages=null")
    with pytest.raises(ValueError, match=rf"{name}=.* does not train: leave out {name}"):
        compress_folder(compose("compress", overrides), tiny_run_folder, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_preset_with_stages_is_compressed_at_once():
    cfg = compose("compress", ["compression=permuted_kronecker"])
    assert cfg.compression.num_stages == 1
    assert compose("train", ["compression=permuted_kronecker"]).compression.num_stages == 3


def test_the_search_is_the_default():
    recipe = compose("compress", []).compression
    assert (recipe.allocation, recipe.parts) == ("searched", None)


def test_a_measurement_beyond_the_context_is_refused(tiny_run_folder, options, tmp_path):
    with pytest.raises(ValueError, match="decode_tokens=5000 must be at least 1 and leave room"):
        cfg = compose("compress", [*options, "decode_tokens=5000"])
        compress_folder(cfg, tiny_run_folder, tmp_path / "small")
