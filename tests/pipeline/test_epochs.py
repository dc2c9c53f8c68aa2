"""A run that is as long as some passes over its data."""

import json

import pytest
from chat_models import save_chat_model

from mobilellm.data import prepare_data
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.plan import plan_run


def planned(tiny_overrides, *overrides):
    kept = [line for line in tiny_overrides if not line.startswith("max_tokens")]
    return plan_run(compose("train", [*kept, *overrides]))


def windows_of(run):
    """Training windows, counted as they are read."""
    windows = prepare_data(run.data).windows("train", run.config["sequence_length"])
    return sum("labels" in windows[index] for index in range(len(windows)))


def test_epochs_are_passes_over_all_windows(tiny_overrides):
    run = planned(tiny_overrides, "epochs=1.5")
    tokens = int(1.5 * 32 * windows_of(run))
    assert run.config["max_tokens"] == tokens
    assert run.budget.total_steps == tokens // 128
    same = planned(tiny_overrides, f"max_tokens={tokens}")
    assert run.identity == same.identity, "only the number of tokens counts"
    assert planned(tiny_overrides, "epochs=2").identity != run.identity


@pytest.mark.parametrize(
    ("other", "steps"),
    [("max_tokens=1024", 8), ("max_tokens=1e9", None), ("max_steps=3", 3),
     ("tokens_per_parameter=0.5", 4)],
)  # fmt: skip
def test_the_smaller_limit_counts(tiny_overrides, other, steps):
    run = planned(tiny_overrides, "epochs=1", other)
    assert run.budget.total_steps == (steps or 32 * windows_of(run) // 128)


def test_less_than_one_step_is_refused(tiny_overrides):
    message = r"epochs=0\.0001 of [\d,]+ windows of 32 tokens gives \d+ tokens, less than one "
    with pytest.raises(ValueError, match=message + r"step, tokens_per_step=128; give more"):
        planned(tiny_overrides, "epochs=0.0001")


@pytest.mark.parametrize("packing", ["packed", "single"])
def test_padding_of_conversations_counts(tmp_path, tiny_overrides, packing, caplog):
    model = save_chat_model(tmp_path / "model")
    rows = [{"prompt": "the fox", "completion": "runs " * (1 + n % 9)} for n in range(40)]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = planned(
        tiny_overrides, "data=conversations", f"data.train={file}", f"data.packing={packing}",
        "data.too_long=leave_out", f"init_from={model}", "sequence_length=48", "epochs=4",
        "tokens_per_step=96", "optimizer=adamw",
    )  # fmt: skip
    assert not caplog.records, "what is left out is logged when the run starts"
    windows = windows_of(run)
    assert run.config["max_tokens"] == 4 * 48 * windows
    kept = prepare_data(run.data).manifest["splits"]["train"]
    assert (windows == kept["documents"]) == (packing == "single")
