"""The comparison of methods of quantization measures what it says, on a tiny run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from mobilellm.checkpoint import load_model, stored_bytes
from mobilellm.compression import RoundToNearest
from mobilellm.evaluation.validation import sum_losses
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.compress_data import data_to_compress_on
from scripts.benchmarks import quantization_methods


@pytest.mark.slow
def test_every_model_is_measured_on_the_same_windows(tiny_run, tmp_path, monkeypatch):
    summary = tiny_run()
    [run] = (tmp_path / "outputs").glob(f"*/{summary['run']}")
    int4 = RoundToNearest(group=8, activation_bits=8)
    monkeypatch.setattr(quantization_methods, "RECIPES", {"int4": int4})
    lines = []
    floats, small, other = quantization_methods.compare_methods(
        run, [run], validation_tokens=1024, log=lines.append
    )
    model = load_model(run / "model")
    data = data_to_compress_on(compose("compress", ["validation_tokens=1024"]), run, model)
    quantized = int4.apply(model, int4.plan(model, []), []).model
    loss, after = (sum_losses(m, data.validation()).loss for m in (model, quantized))
    assert floats.loss == other.loss == pytest.approx(loss)
    assert small.loss == pytest.approx(after)
    assert small.difference == pytest.approx(after - loss, abs=1e-7)
    assert floats.difference == floats.half_width == other.difference == 0 < small.half_width
    assert small.bytes == stored_bytes(quantized) < floats.bytes == stored_bytes(model)
    assert small.bits_per_weight == 8 * small.bytes / 5288
    assert len(lines) == 1 and lines[0].startswith("int4: ")
