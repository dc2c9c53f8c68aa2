"""Lightning's own callbacks and trainer options work in a run, from the command line alone."""

import csv
import json
import logging
from pathlib import Path

import pytest

from mobilellm.pipeline import fit
from mobilellm.training.trainer import make_trainer

STOCK = "lightning.pytorch.callbacks"


def added(name, target, **options):
    """Overrides that add a callback."""
    pairs = {"_target_": f"{STOCK}.{target}", **options}
    return [f"+callbacks.{name}.{key}={value}" for key, value in pairs.items()]


def test_early_stopping_ends_a_run_and_the_summary_says_so(tiny_run, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    stop = added("early", "EarlyStopping", monitor="val/loss", stopping_threshold=100.0)
    summary = tiny_run(*stop)
    # The first validation after the start is that of step 4, 512 tokens; the budget is 12 steps.
    assert (summary["status"], summary["steps"], summary["tokens"]) == ("finished", 4, 512)
    assert summary["ended_early"]["by"] == "EarlyStopping"
    assert summary["ended_early"]["share_of_budget"] == pytest.approx(4 / 12)
    assert "val/loss" in summary["ended_early"]["reason"]
    assert "EarlyStopping ended the run after 33 % of its budget, at step 4" in caplog.text
    (saved,) = Path(tmp_path).glob("outputs/*/*/summary.json")
    assert json.loads(saved.read_text(encoding="utf-8"))["ended_early"] == summary["ended_early"]
    assert (saved.parent / "model" / "config.json").is_file()


def test_early_stopping_counts_validations_and_leaves_a_run_that_improves_alone(tiny_run):
    summary = tiny_run(*added("early", "EarlyStopping", monitor="val/loss", patience=1),
                       "optimizer.learning_rate=1e-2")  # fmt: skip
    assert (summary["status"], summary["steps"]) == ("finished", 12)
    assert "ended_early" not in summary


def test_each_stage_of_compression_gets_stock_callbacks_as_they_were_built(
    tiny_run, low_rank_stages, monkeypatch
):
    """Lightning's Timer keeps the end of its first fit, and would not end a later one."""
    fits = []

    def make(*args, callbacks, **options):
        fits.append({type(one).__name__: one for one in callbacks})
        clock = fits[-1]["Timer"]
        assert clock.end_time("train") is None, "it ended an earlier fit"
        return make_trainer(*args, callbacks=callbacks, **options)

    monkeypatch.setattr(fit, "make_trainer", make)
    tiny_run(*low_rank_stages, *added("clock", "Timer", duration="00:01:00:00"))
    assert len(fits) == 3
    assert len({id(one["Timer"]) for one in fits}) == 3
    assert len({id(one["CompressionCallback"]) for one in fits}) == 1


def test_checkpoints_and_rates_of_stock_callbacks(tiny_run, tmp_path):
    tiny_run(
        *added("best", "ModelCheckpoint", dirpath=tmp_path / "own", monitor="val/loss",
               filename="best-step"),
        *added("rates", "LearningRateMonitor", logging_interval="step"),
        "log_interval_steps=1",
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["best-step.ckpt"]
    (metrics,) = tmp_path.glob("outputs/*/*/metrics.csv")
    rows = list(csv.DictReader(metrics.open(encoding="utf-8")))
    assert any(name.startswith("lr-") for name in rows[0])


def test_a_profile_is_made_and_told(tiny_run, caplog):
    # Lightning's loggers hand nothing on to the root's, where caplog listens.
    logging.getLogger("lightning.pytorch").addHandler(caplog.handler)
    try:
        tiny_run("+trainer.profiler=simple", "+trainer.detect_anomaly=true", "max_tokens=256")
    finally:
        logging.getLogger("lightning.pytorch").removeHandler(caplog.handler)
    assert "Profiler Report" in caplog.text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_steps=3", r"^trainer: TrainerConfig has no field 'max_steps'; here it is max_steps"),
        ("accumulate_grad_batches=2", r"here it is tokens_per_step .*micro_batch_size"),
        ("gradient_clip_val=1.0", r"here it is gradient_clip_norm"),
        ("max_epochs=1", r"here it is epochs"),
        ("profiler=fast", r"trainer.profiler='fast' must be simple or advanced or null"),
    ],
)
def test_options_that_this_project_decides_name_the_right_key(tiny_run, option, message):
    with pytest.raises(ValueError, match=message):
        tiny_run(f"+trainer.{option}")
