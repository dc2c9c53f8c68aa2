"""Runs that learn from pairs of better and worse answers."""

import json
import math

import pytest
from chat_models import save_chat_model
from small_run import read_rows

from mobilellm.data import prepare_data
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.hydra_app.configuration import compose
from mobilellm.labels import ANSWER_LABELS, IGNORE_INDEX
from mobilellm.pipeline.plan import plan_run

ROWS = [
    {"prompt": f"the {n} fox", "chosen": "runs", "rejected": "the dog " * (1 + n % 3)}
    for n in range(30)
]  # fmt: skip


@pytest.fixture
def given(tmp_path):
    """Overrides of a run on pairs, from a model with a chat template."""
    model = save_chat_model(tmp_path / "model")
    file = tmp_path / "pairs.jsonl"
    rows = [*ROWS, {"prompt": "x", "chosen": "y", "rejected": "y"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        "experiment=preferences", "data=preferences", f"data.train={file}", f"init_from={model}",
        "~model",
        "sequence_length=128", "tokens_per_step=256", "epochs=3", "optimizer.learning_rate=5e-3",
        "log_interval_steps=1",
    ]  # fmt: skip


def test_windows_have_both_answers_and_the_better_ones_as_labels(given, tiny_overrides, caplog):
    kept = [line for line in tiny_overrides if not line.startswith(("max_tokens", "model"))]
    run = plan_run(compose("train", [*kept, *given]))
    prepared = prepare_data(run.data)
    assert "1 of 31 rows have the same answer" in caplog.text
    tokenizer = open_tokenizer(prepared.tokenizer_path)
    windows, found = prepared.windows("train", 128), []
    for window in map(windows.__getitem__, range(len(windows))):
        for number in range(0, int(window["document_ids"].max()) - 1, 2):
            texts = []
            for document in (number, number + 1):
                labels = window[ANSWER_LABELS][window["document_ids"] == document]
                answer = labels[labels != IGNORE_INDEX].tolist()
                assert tokenizer.piece(answer[-1]) == "<|im_end|>"
                texts.append(tokenizer.decode(answer[:-1]))
            found.append(tuple(texts))
    wanted = {(row["chosen"], row["rejected"]) for row in ROWS}
    assert set(found) == wanted
    sizes = prepared.manifest["splits"]
    assert sum(split["documents"] for split in sizes.values()) == 2 * len(ROWS)
    rows = (prepared.dir / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(row)["messages"][-1]["content"] == "runs" for row in rows)


@pytest.mark.parametrize("adapter", ["none", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_model_learns_to_prefer_the_better_answers(adapter, given, tiny_run, tmp_path):
    extra = [] if adapter == "none" else ["adapter=lora", "adapter.rank=4"]
    summary = tiny_run(*given, *extra, "max_tokens=8192")
    folder = next((tmp_path / "outputs").glob(f"*/{summary['run']}"))
    rows = read_rows(folder)
    losses = [float(row["train/loss/dpo"]) for row in rows if row["train/loss/dpo"]]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4), "the model is its reference"
    assert losses[-1] < 0.5 * losses[0]
    assert summary["val_preference_accuracy"] == 1.0
    assert summary["val_preference_margin"] > 1.0
    assert summary["distillation"]["losses"] == {"dpo": "DirectPreference"}


def test_pairs_and_their_loss_need_each_other(given, tiny_run):
    with pytest.raises(ValueError, match="data=preferences and distillation=dpo need each other"):
        tiny_run(*given, "distillation=none", "callbacks=default")
    model = next(line for line in given if line.startswith("init_from"))
    with pytest.raises(ValueError, match="need each other"):
        tiny_run(model, "~model", "distillation=dpo")
    with pytest.raises(ValueError, match="those of preferences; use data=preferences"):
        tiny_run(*given, "data=conversations", "data.name=chats", "distillation=none")
    with pytest.raises(ValueError, match="too short for any of the"):
        tiny_run(*given, "sequence_length=8", "tokens_per_step=64")
