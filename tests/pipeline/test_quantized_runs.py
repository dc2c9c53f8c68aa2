"""Models that are quantized by a command, with and without training."""

import json
import logging

import pytest
import torch
from command_process import run_command
from killed_runs import assert_same, has_step, start, the_folder, wait_for

from mobilellm.accounting.storage import stored_tensors
from mobilellm.checkpoint import load_model
from mobilellm.compression.round_to_nearest import RoundToNearest
from mobilellm.evaluation.validation import sum_losses
from mobilellm.hydra_app.configuration import compose
from mobilellm.models.generation import generate
from mobilellm.pipeline.compress import compress_folder
from mobilellm.pipeline.compress_data import data_to_compress_on

QAT = ["compression=qat", "compression.group=8"]


@pytest.fixture
def run_folder(tiny_run, tmp_path):
    summary = tiny_run("seed=3")
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))


@pytest.fixture
def options():
    return [
        "compression.group=8", "sequence_length=32", "validation_tokens=512",
        "decode_tokens=4", "prefill_tokens=8",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["quantize", "gptq"])
def test_a_quantized_model_is_saved_and_described(method, run_folder, options, tmp_path, capsys):
    out = tmp_path / "small"
    choice = [] if method == "quantize" else ["compression.calibration_tokens=1024"]
    cfg = compose("compress", [f"compression={method}", *options, *choice])
    report = compress_folder(cfg, run_folder, out)
    small = load_model(out)
    dense, compressed = report.models
    tensors = stored_tensors(small.config, 32)
    total = sum(one.bits for one in tensors) / 8
    written = (out / "model.safetensors").read_bytes()
    assert len(written) - 8 - int.from_bytes(written[:8], "little") == total
    assert compressed.disk_bytes == total < dense.disk_bytes / 3
    assert compressed.parameters.stored == dense.parameters.stored
    data = data_to_compress_on(cfg, run_folder, small)
    assert sum_losses(small, data.validation()).loss == pytest.approx(compressed.loss)
    assert generate(small, torch.tensor([[1, 5]]), max_new_tokens=3).shape == (1, 5)
    printed = capsys.readouterr()
    bits = 8 * total / compressed.parameters.stored
    assert f"in the file: {bits:.3f} bits per weight" in printed.out
    assert "int4 in groups of 8" in printed.out
    assert "norms" in printed.out and "not" in printed.out.partition("norms")[2].splitlines()[0]
    assert "with embedding_bits=null, in floats: " in printed.err
    assert max(map(len, printed.out.splitlines())) <= 80
    # What is quantized stays so, and the file says that nothing else can be done with it.
    with pytest.raises(ValueError, match="compressed already"):
        compress_folder(cfg, out, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_quantized_so_is_refused(run_folder, options, tiny_run, tmp_path):
    wide = [o for o in options if "group" not in o]
    with pytest.raises(
        ValueError, match=r"group=32 does not divide the 8 inputs of .* use group=8"
    ):
        cfg = compose("compress", ["compression=quantize", *wide])
        compress_folder(cfg, run_folder, tmp_path / "small")
    with pytest.raises(ValueError, match="QuantizationAwareTraining has no effect without train"):
        compress_folder(compose("compress", [*QAT, *options]), run_folder, tmp_path / "small")
    with pytest.raises(ValueError, match=r"packs weights, .* quantize the model after training \("):
        tiny_run("compression=quantize", "compression.group=8")
    assert not (tmp_path / "small").exists()
    compress_folder(
        compose("compress", ["compression=quantize", "latency=false", *options]),
        run_folder, tmp_path / "small",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"15 matrices of the model are quantized, e.g. embedding"):
        tiny_run(f"init_from={tmp_path / 'small'}", "~model")


@pytest.mark.slow
def test_a_quantized_model_ends_other_methods_with_exit_code_2(run_folder, options, tmp_path):
    cfg = compose("compress", ["compression=quantize", "latency=false", *options])
    compress_folder(cfg, run_folder, tmp_path / "small")
    for method in ("gptq", "low_rank"):
        done = run_command(
            "compress", tmp_path / "small", "--out", tmp_path / method, f"compression={method}"
        )
        assert done.returncode == 2
        assert "compressed already" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_quantization_aware_training_saves_packed_weights(tiny_run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        summary = tiny_run(
            *QAT, "distillation=forward_kl", "distillation.teacher=dense", "optimizer=muon"
        )
    [folder] = (path.parent for path in tmp_path.glob("outputs/*/*/summary.json"))
    model = load_model(folder / "model")
    assert model.config.to_dict() == summary["model"]
    assert {shape.kind for shape in model.config.layer_shapes.values()} == {"quantized"}
    assert len(model.config.layer_shapes) == 15
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    kinds = {tuple(values) for values in state["model_config"]["compressed_layers"].values()}
    assert kinds == {("fake_quantized",)}
    # Weights learn: they are not those of the start, rounded.
    [stage] = summary["compression"]["stages"]
    assert summary["val_loss"] < stage["loss_after"]
    dense = load_model(folder / "compression/dense")
    start = RoundToNearest(group=8, activation_bits=8)
    rounded = start.apply(dense, start.plan(dense, []), []).model
    name = "blocks.0.feed_forward.up_proj"
    assert rounded.config == model.config
    assert not torch.equal(rounded.get_submodule(name).codes, model.get_submodule(name).codes)
    # The loss of the run is that of the saved model.
    cfg = compose(
        "compress", ["compression=quantize", "sequence_length=32", "validation_tokens=512"]
    )
    data = data_to_compress_on(cfg, folder, model)
    assert sum_losses(model, data.validation()).loss == pytest.approx(summary["val_loss"], rel=1e-4)
    assert "saved embedding: int8 per output, inputs in int8; q_proj, " in caplog.text
    report = json.loads((folder / "compression/report.json").read_text(encoding="utf-8"))
    assert report["stages"][0]["parameters_after"] == summary["parameters"]["stored"]


@pytest.mark.slow
@pytest.mark.parametrize("first_start", [0.0, 0.5])
def test_a_killed_run_goes_on_bit_for_bit(first_start, tiny_overrides, tmp_path):
    again = [
        *tiny_overrides, *QAT, f"compression.first_start={first_start}",
        "max_tokens=2560", "log_interval_steps=1", "callbacks.checkpoint.every_steps=4",
    ]  # fmt: skip
    assert start(*again, "experiment_name=alone").wait(timeout=240) == 0
    for step in (6, 15):
        process = start(*again, "experiment_name=killed", "resume=true")
        wait_for(process, lambda step=step: has_step(tmp_path / "outputs/killed", step))
        process.kill()
        process.wait()
    assert start(*again, "experiment_name=killed", "resume=true").wait(timeout=240) == 0
    assert_same(the_folder(tmp_path / "outputs/killed"), the_folder(tmp_path / "outputs/alone"))
