"""Run summary, throughput and progress: what they say is what is so."""

import logging
import re

import pytest
import torch
from small_run import fit, make_data, make_model, make_module, read_rows

from mobilellm.accounting import flops_per_token
from mobilellm.callbacks.progress import ProgressCallback
from mobilellm.callbacks.run_summary import RunSummaryCallback
from mobilellm.callbacks.throughput import ThroughputCallback
from mobilellm.optim import muon
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.trainer import TrainerConfig, make_trainer
from mobilellm.units import clock_text, si_text


def test_the_summary_tells_shape_counts_and_batch(capsys):
    model = make_model(block_repeats=2)
    stored = sum(p.numel() for p in model.parameters())
    fit(make_module(3, model=model, optimizer=muon), make_data(2), callbacks=[RunSummaryCallback()])
    text = " ".join(capsys.readouterr().out.split())
    assert "2 blocks run as 4 layers (immediate), width 16" in text
    assert f"{stored:,} stored" in text
    assert "128 = 2 windows x 16 tokens x 4 micro-batches x 1 devices" in text
    assert "384 tokens in 3 steps" in text
    assert "1,488 tokens to train on, 592 to validate on" in text
    assert "1 x cpu" in text
    assert "32-true" in text
    assert re.search(r"memory forecast [\d.]+ [kM]B per device", text)


def test_throughput(tmp_path):
    callback, module = ThroughputCallback(), make_module(12, log=4)
    fit(module, make_data(), tmp_path, callbacks=[callback])
    rows = {int(row["step"]): row for row in read_rows(tmp_path)}
    assert not rows[1]["tokens_per_second"]
    assert all(float(rows[step]["tokens_per_second"]) > 0 for step in (4, 8, 12))
    seconds = float(rows[8]["seconds"]) - float(rows[4]["seconds"])
    assert float(rows[8]["tokens_per_second"]) == pytest.approx(4 * 128 / seconds, rel=0.2)
    flops = flops_per_token(module.model.config, 16).training
    expected = callback.tokens_per_second * flops / callback.matmul_flops_per_second
    assert callback.model_flops_utilization == pytest.approx(expected)
    assert module.latest_metrics["tokens_per_second"] == callback.tokens_per_second
    assert module.latest_metrics["matmul_flops_per_second"] > 1e8


def test_validation_is_left_out_of_the_throughput(tmp_path):
    import time

    class SlowData(type(make_data())):
        def validation_batches(self):
            time.sleep(0.5)
            return super().validation_batches()

    data = make_data()
    data.__class__ = SlowData
    callback = ThroughputCallback()
    module = make_module(6, log=1, validate=2, start=False)
    fit(module, data, callbacks=[callback])
    assert module.validation_seconds > 1.5
    assert callback.tokens_per_second > 5 * 128 / 1.0


def test_progress_writes_lines_where_there_is_no_terminal(caplog):
    with caplog.at_level(logging.INFO):
        fit(make_module(4), make_data(), callbacks=[ProgressCallback(line_seconds=0.0)])
    lines = [r.getMessage() for r in caplog.records if "progress" in r.name]
    assert len(lines) == 5
    assert re.match(
        r"step 2 of 4 · loss \d\.\d{3} · validation \d\.\d{3} · 0:0\d left · [\d.]+ k? ?tokens/s · "
        r"256 tokens$",
        lines[1],
    )
    assert "left" not in lines[-1]


def test_the_rate_is_that_of_the_log(tmp_path, caplog):
    """As `status.py` reads it from metrics.csv, and as the run's summary says at the end."""
    throughput = ThroughputCallback()
    callbacks = [throughput, ProgressCallback(line_seconds=0.0)]
    with caplog.at_level(logging.INFO):
        fit(make_module(6, log=2, validate=3), make_data(), tmp_path, callbacks=callbacks)
    lines = [r.getMessage() for r in caplog.records if "progress" in r.name]
    shown = [re.search(r"([\d.]+ ?k?) tokens/s", line)[1] for line in lines]
    logged = {int(row["step"]): row["tokens_per_second"] for row in read_rows(tmp_path)}
    assert shown[3] == si_text(float(logged[4]))
    assert shown[-1] == si_text(throughput.tokens_per_second)


def test_progress_is_quiet_between_lines(caplog):
    with caplog.at_level(logging.INFO):
        fit(make_module(4), make_data(), callbacks=[ProgressCallback()])
    assert len([r for r in caplog.records if "progress" in r.name]) == 1


def test_the_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    fit(make_module(4), make_data(), callbacks=[ProgressCallback(refresh_seconds=0.0)])
    text = capsys.readouterr().err
    assert "step 3 of 4" in text
    assert "75%" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3600, "1:00:00"), (36_061, "10:01:01")]
)
def test_durations(seconds, text):
    assert clock_text(seconds) == text


def test_loggers_are_finished_rows_at_the_end(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(TrainerConfig(accelerator="cpu"), max_steps=3, loggers=[logger])
    trainer.fit(make_module(3), datamodule=make_data())
    assert [row["step"] for row in read_rows(tmp_path)] == ["0", "1", "2", "3"]
    assert torch.is_grad_enabled()
