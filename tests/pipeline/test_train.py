"""A run from configuration to model folder, and every refusal before work starts."""

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.checkpoint import load_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.models import ModelConfig
from mobilellm.pipeline.sweep import check_run
from mobilellm.pipeline.train import train


def _folder(tmp_path: Path) -> Path:
    [summary] = tmp_path.glob("outputs/*/*/summary.json")
    return summary.parent


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_the_design_says(tiny_run, tmp_path):
    summary = tiny_run()
    folder = _folder(tmp_path)
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(summary)
    )
    assert summary["status"] == "finished"
    assert (summary["tokens"], summary["steps"]) == (1536, 12)
    config = ModelConfig.from_dict(summary["model"])
    assert summary["parameters"] == asdict(count_parameters(config))
    assert summary["flops_per_token"] == asdict(flops_per_token(config, 32))
    assert 0 < summary["bigram_loss"] < summary["unigram_loss"] < math.log(512)
    for name in ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / name).exists(), name
    rows = _rows(folder)
    assert float(rows[-1]["val/loss"]) == summary["val_loss"]
    assert [int(r["tokens"]) for r in rows if r["val/loss"]] == [0, 512, 1024, 1536]
    assert summary["val_loss"] < float(rows[0]["val/loss"])
    model = load_model(folder / "model")
    assert sum(p.numel() for p in model.parameters()) == summary["parameters"]["stored"]
    assert (folder / "model" / "tokenizer.model").exists()
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["model_config"] == summary["model"]


def test_bits_per_byte_follow_from_nats_and_bytes(tiny_run, prepared_dir):
    """Of the same model on the same text: nats per token x tokens = bits per byte x bytes ln 2."""
    from mobilellm.data.prepared import PreparedData

    summary = tiny_run()
    prepared = PreparedData(Path(summary["data"]["dir"]))
    tokens = prepared.tokens("validation")
    windows = (len(tokens) - 1) // 32
    starts = [32 * (n * windows // 16) for n in range(16)]
    labels = np.concatenate([tokens[start + 1 : start + 33] for start in starts])
    nats = summary["val_loss"] * len(labels)
    assert summary["val_bits_per_byte"] == pytest.approx(
        nats / math.log(2) / prepared.count_bytes(labels)
    )


def test_the_seed_decides_weights_and_order(tiny_run):
    first, again, other = tiny_run(), tiny_run("experiment_name=b"), tiny_run("seed=1")
    assert first["val_loss"] == again["val_loss"] != other["val_loss"]


def test_a_finished_run_is_refused(tiny_run):
    tiny_run()
    with pytest.raises(ValueError, match="is a finished run and is never overwritten"):
        tiny_run("resume=true")


def test_a_run_killed_between_its_last_step_and_its_summary_is_finished(tiny_run, tmp_path):
    from mobilellm.run_folder import write_summary

    summary = tiny_run()
    folder = _folder(tmp_path)
    rows = _rows(folder)
    write_summary(folder, summary | {"status": "running", "val_loss": None})
    for path in (folder / "model").iterdir():
        path.unlink()
    again = tiny_run("resume=true")
    assert again["status"] == "finished"
    assert (again["steps"], again["tokens"]) == (summary["steps"], summary["tokens"])
    assert again["val_loss"] == pytest.approx(summary["val_loss"], rel=1e-6)
    assert [row["step"] for row in _rows(folder)] == [row["step"] for row in rows]
    assert load_model(folder / "model").config.to_dict() == summary["model"]


def test_the_probe_trains_with_the_best_rate(tiny_run, tmp_path):
    probe = [
        "learning_rate_probe=true", "learning_rate_probe_factors=[1e-6,1,2]",
        "learning_rate_probe_widenings=0",
    ]  # fmt: skip
    summary = tiny_run(*probe)
    tried = summary["learning_rates_tried"]
    assert [t["learning_rate"] for t in tried] == pytest.approx([2e-9, 2e-3, 4e-3])
    best = min(tried, key=lambda t: t["val_loss"])
    assert summary["learning_rate"] == best["learning_rate"] > 1e-3
    probes = [
        json.loads(p.read_text(encoding="utf-8"))
        for p in tmp_path.glob("outputs/*/probes/*/summary.json")
    ]
    assert {p["seed"] for p in probes} == {1000}
    assert {p["tokens"] for p in probes} == {384}
    # Another seed of the same shape finds what was tried.
    times = {p: p.stat().st_mtime for p in tmp_path.glob("outputs/*/probes/*/summary.json")}
    assert tiny_run(*probe, "seed=1")["learning_rates_tried"] == tried
    assert {p: p.stat().st_mtime for p in times} == times


def test_a_diverging_probe_is_recorded_and_never_chosen(tiny_run, tmp_path, caplog):
    probe = [
        "learning_rate_probe=true", "learning_rate_probe_factors=[1,1e12]",
        "learning_rate_probe_widenings=0",
    ]  # fmt: skip
    caplog.set_level("INFO")
    summary = tiny_run(*probe)
    good, bad = summary["learning_rates_tried"]
    assert (bad["learning_rate"], bad["val_loss"]) == (pytest.approx(2e9), None)
    assert summary["learning_rate"] == good["learning_rate"] == pytest.approx(2e-3)
    assert f"the best of 0.002 ({good['val_loss']:.3f} nats per token), 2e+09 (diverged)" in (
        caplog.text
    )
    # Another seed does not try it again.
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("outputs/*/probes/*/summary.json")}
    assert len(times) == 2
    assert tiny_run(*probe, "seed=1")["learning_rates_tried"] == summary["learning_rates_tried"]
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_probes_without_a_judge_of_steps_never_choose_a_loss_that_is_no_number(tiny_run):
    summary = tiny_run(
        "callbacks.loss_guard=null", "learning_rate_probe=true",
        "learning_rate_probe_factors=[1e-6,1e30,1]",
    )  # fmt: skip
    assert not math.isfinite(summary["learning_rates_tried"][-1]["val_loss"] or math.nan)
    assert summary["learning_rate"] == pytest.approx(2e-3)


def test_a_run_all_of_whose_probes_diverge_is_refused(tiny_run):
    with pytest.raises(ValueError, match=r"diverged with each of the learning rates 2e\+09; give"):
        tiny_run("learning_rate_probe=true", "learning_rate_probe_factors=[1e12]")


def test_init_from_takes_architecture_weights_and_tokenizer(tiny_run, tmp_path):
    tiny_run()
    folder = _folder(tmp_path)
    summary = tiny_run(
        "~model", f"init_from={folder}", "experiment_name=further", "data.held_out=0.2",
        f"data.dir={tmp_path}/shards", "max_tokens=128",
    )  # fmt: skip
    start = float(_rows(tmp_path / "outputs/further" / summary["run"])[0]["val/loss"])
    end = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["val_loss"]
    assert start == pytest.approx(end, rel=1e-6)
    before = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert before["starts_from"] == {"folder": None, "origin": None, "tokens": 0}
    assert set(before["passive_callbacks"]) == {"throughput", "graceful_stop", "checkpoint"}
    assert summary["starts_from"] == {
        "folder": str(folder.absolute()), "origin": None, "tokens": before["tokens"],
    }  # fmt: skip


def test_micro_batches_do_not_change_the_result(tiny_run):
    whole = tiny_run("micro_batch_size=4")
    split = tiny_run("micro_batch_size=1", "experiment_name=split")
    assert split["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sequence_length=4096"], r"sequence_length=4096 must be between 1 and the model's cont"),
        (["tokens_per_step=100"], r"tokens_per_step=100 must be a multiple of .* use 96 or 128"),
        (["micro_batch_size=3"], r"size=3 must be auto, measure, or divide the 4 windows"),
        (["trainer.devices=3"], r"the 4 windows of a step .* cannot be shared by 3 devices"),
        (["max_tokens=100"], r"max_tokens=100 must be at least one step"),
        (["max_tokens=null"], r"a run needs an end; give max_tokens, max_steps or max_seconds"),
        (["model.num_attention_heads=3", "model.num_key_value_heads=2"],
         r"model: num_attention_heads=3 must be divisible by num_key_value_heads=2; use 1 or 3"),
        (["data.train=/nowhere"], r"/nowhere"),
        (["data.vocab_size=600"], r"has 600 tokens, more than the model's vocab_size=512"),
        (["sequence_length=2048", "tokens_per_step=2048", "max_tokens=2048", "data.name=few",
          "data.document=line", "validation_tokens=null", "data.max_megabytes=0.01"],
         r"the \w+ split: sequence_length=\d+ needs \d+ tokens"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(
    overrides, message, tiny_overrides, tmp_path
):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(compose("train", [*tiny_overrides, *overrides]))
    assert not list(tmp_path.glob("outputs/*/*/*"))


def test_a_checkpoint_of_another_shape_is_refused(tiny_run, tiny_overrides, tmp_path):
    from mobilellm.run_folder import write_summary

    tiny_run()
    folder = _folder(tmp_path)
    (folder / "summary.json").unlink()
    path = folder / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["model_config"]["num_blocks"] = 7
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="num_blocks=7, now 2; resume with the model of the"):
        tiny_run("resume=true")
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"] == "failed"
    write_summary(folder, {})


def test_check_run_gives_the_folder_of_a_trial(tiny_overrides, tmp_path):
    folder = check_run(compose("train", [*tiny_overrides, "seed=3"]))
    assert folder.parent == tmp_path / "outputs/default"
    assert not folder.exists()
