"""The trainer's configuration, and that Lightning keeps quiet."""

import subprocess
import sys
import warnings

import pytest
import torch
from small_run import fit, make_data, make_module

from mobilellm.training.device_rate import measure_matmul_rate
from mobilellm.training.execution import Execution
from mobilellm.training.trainer import TrainerConfig, make_trainer

ON_CPU = not torch.cuda.is_available() and not torch.backends.mps.is_available()


def test_auto_on_a_cpu():
    config = TrainerConfig(accelerator="cpu")
    assert config.device_type == "cpu"
    assert config.num_devices == 1
    assert config.world_size == 1
    assert config.resolved_precision == "32-true"
    assert TrainerConfig(accelerator="cpu", devices=2, num_nodes=3).world_size == 6


@pytest.mark.skipif(not ON_CPU, reason="there is an accelerator")
def test_an_accelerator_that_is_not_there():
    assert TrainerConfig().device_type == "cpu"
    with pytest.raises(ValueError, match=r"trainer\.accelerator=cuda is not available here; use c"):
        _ = TrainerConfig(accelerator="cuda").device_type


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accelerator": "tpu"}, r"trainer\.accelerator='tpu' is not known; use one of auto, cpu"),
        ({"strategy": "dp"}, r"trainer\.strategy='dp' is not known; use one of auto, ddp, fsdp"),
        ({"precision": "16"}, r"trainer\.precision='16' is not known; use one of auto, 32-true"),
        ({"devices": 0}, r"trainer\.devices=0 must be a whole number of at least 1"),
        ({"devices": "two"}, r"trainer\.devices='two' must be a whole number of at least 1"),
        ({"num_threads": 0}, r"trainer\.num_threads=0 must be a whole number of at least 1"),
        ({"num_nodes": True}, r"trainer\.num_nodes=True must be a whole number of at least 1"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**values)


def test_a_run_warns_of_nothing_and_leaves_no_folders(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(make_module(2), make_data(4))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        make_trainer(TrainerConfig(accelerator="cpu", num_threads=1), max_steps=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_configuration_and_budget_do_not_import_lightning():
    code = (
        "import sys, mobilellm.training.trainer, mobilellm.training.training_budget, "
        "mobilellm.training.intervals, mobilellm.losses.cross_entropy, mobilellm.optim; "
        "print([m for m in ('lightning', 'hydra', 'datasets', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "[]"


def test_the_matmul_rate_is_that_of_a_matrix_product():
    import time

    rate = measure_matmul_rate("cpu", torch.float32, seconds=0.2)
    left = torch.randn(512, 512)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        left @ left
        times.append(time.perf_counter() - start)
    assert 0.2 < rate / (2 * 512**3 / min(times)) < 5.0


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 2])
def test_compiled_blocks_learn_the_same(tmp_path, repeats):
    from small_run import make_model, read_rows

    pytest.importorskip("torch._inductor")
    for name in ("eager", "compiled"):
        module = make_module(
            2,
            model=make_model(block_repeats=repeats),
            execution=Execution(compile=name == "compiled"),
            start=False,
        )
        fit(module, make_data(), tmp_path / name)
    eager, compiled = (read_rows(tmp_path / name) for name in ("eager", "compiled"))
    for a, b in zip(eager, compiled, strict=True):
        assert float(a["train/loss"]) == pytest.approx(float(b["train/loss"]), rel=1e-5)
