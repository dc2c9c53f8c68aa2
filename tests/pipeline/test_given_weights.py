"""Runs that begin with saved weights: their number type, their tokenizer, their special tokens."""

from pathlib import Path

import pytest
import torch

from mobilellm.checkpoint import load_model, save_model


def folder_of(summary, tmp_path):
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))


@pytest.fixture
def trained(tiny_run, tmp_path) -> Path:
    """A run of the tiny model on the test corpus."""
    return folder_of(tiny_run("max_tokens=512"), tmp_path)


@pytest.mark.parametrize("layers", ["null", "[1,0]"])
def test_weights_saved_in_16_bits_train_in_float32(layers, trained, tiny_run, tmp_path):
    """At this rate no update of a weight near 1 reaches half a step of bfloat16, 2**-8."""
    half = load_model(trained / "model").bfloat16()
    save_model(half, tmp_path / "half", trained / "model/tokenizer.model")
    summary = tiny_run(
        f"init_from={tmp_path}/half", f"init_layers={layers}", "experiment_name=further",
        "optimizer.learning_rate=1e-5", "max_tokens=512",
    )  # fmt: skip
    run = folder_of(summary, tmp_path)
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    kinds = {tensor.dtype for tensor in state["state_dict"].values()}
    moments = state["optimizer_states"][0]["state"].values()
    kinds |= {values["exp_avg"].dtype for values in moments}
    assert kinds == {torch.float32}
    norm = load_model(run / "model").norm.weight
    assert norm.dtype == torch.float32
    assert not torch.equal(norm, half.norm.weight.float()), "the weights did not move"
    assert torch.equal(norm.bfloat16(), half.norm.weight), "bfloat16 would have lost the steps"
