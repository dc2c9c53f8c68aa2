"""Runs that begin with saved weights: their number type, and what they know."""

import pytest
import torch
from test_tokens import folder_of

from mobilellm.checkpoint import load_model, save_model
from mobilellm.models import MobileLLM


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
    kinds |= {tensor.dtype for values in moments for tensor in values.values()}
    assert kinds == {torch.float32}
    norm = load_model(run / "model").norm.weight
    assert norm.dtype == torch.float32
    assert not torch.equal(norm, half.norm.weight.float()), "the weights did not move"
    assert torch.equal(norm.bfloat16(), half.norm.weight), "bfloat16 would have lost the steps"


@pytest.mark.parametrize("compression", [[], ["+compression.first_start=0"]])
def test_given_weights_that_know_nothing_are_pointed_out(
    compression, trained, tiny_run, low_rank_stages, tmp_path, caplog
):
    stages = [*low_rank_stages, *compression] if compression else []
    options = [*stages, "experiment_name=further", "max_tokens=512"]
    drawn = MobileLLM(load_model(trained / "model").config)
    save_model(drawn, tmp_path / "drawn", trained / "model/tokenizer.model")
    tiny_run(f"init_from={tmp_path}/drawn", *options)
    warning = f"init_from={tmp_path}/drawn has an initial loss of 6.2"
    assert caplog.text.count(warning) == 1
    assert "nats per token on the validation text, about that of a uniform prediction" in (
        caplog.text
    )
