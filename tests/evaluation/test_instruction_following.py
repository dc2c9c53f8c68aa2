"""IFEval's checks through the harness, on rows from a file and a model whose answer is known."""

import importlib.util
import json

import pytest
from tiny_tokenizers import make_constant_model, make_tokenizer

from mobilellm.checkpoint import save_model
from mobilellm.commands import evaluate
from mobilellm.data.tokenizers import open_tokenizer

PACKAGES = ("lm_eval", "langdetect", "immutabledict")
# The answer is "fox fox fox …": it has no comma, and no zebra.
ROWS = [
    {"key": 1, "prompt": "Say it without commas.", "instruction_id_list": ["punctuation:no_comma"],
     "kwargs": [{}]},
    {"key": 2, "prompt": "Say zebra without commas.",
     "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
     "kwargs": [{}, {"keywords": ["zebra"]}]},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)), reason="needs lm-eval[ifeval]"
)
def test_followed_instructions_are_counted(tmp_path, capsys):
    path = make_tokenizer(tmp_path / "tokenizer")
    word = open_tokenizer(path).encode("fox")[-1]
    save_model(make_constant_model(word), tmp_path / "model", path)
    rows = tmp_path / "rows/ifeval"
    rows.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (rows / "train.jsonl").write_text(text, encoding="utf-8")
    command = [tmp_path / "model", "--tasks", "ifeval", "--data", tmp_path / "rows"]
    with pytest.raises(SystemExit) as stop:
        evaluate.main([*map(str, command), "--format", "json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    entry = json.loads(out)["tasks"]["ifeval"]
    assert entry["prompt_level_strict_acc"] == entry["prompt_level_loose_acc"] == 0.5
    assert entry["harness"]["inst_level_strict_acc"] == pytest.approx(2 / 3)
    low, high = entry["prompt_level_strict_acc_interval"]
    assert low < 0.5 < high
