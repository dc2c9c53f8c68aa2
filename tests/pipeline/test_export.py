"""Exports of saved models, and the README.md beside them."""

import json
import shutil

import pytest
import torch
from tiny_tokenizers import make_byte_level

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import load_model, save_model
from mobilellm.commands.export import run
from mobilellm.evaluation.stored import EVALUATION
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline.export import export_folder
from mobilellm.pipeline.export_settings import ExportSettings
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.report.ancestry import COMPRESSION
from mobilellm.run_folder import SUMMARY

GGUF = ExportSettings(format="gguf", kind="q8_0")
HUGGINGFACE = ExportSettings(format="huggingface")
MADE = {
    "command": "mobilellm train seed=3", "device": "a CPU", "git": {"commit": "0123456789abcdef"},
    "versions": {"mobilellm": "9.8", "torch": "7.6"},
}  # fmt: skip


@pytest.fixture
def byte_run(tmp_path):
    """The folder of a run, whose model has shared blocks and a byte-level tokenizer."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_blocks=2, num_attention_heads=2,
        block_repeats=2, max_position_embeddings=64,
    )  # fmt: skip
    tokenizer = make_byte_level(tmp_path / "tokenizer")
    save_model(MobileLLM(config), tmp_path / "a-run/model", tokenizer)
    return tmp_path / "a-run"


def write_json(path, values):
    path.write_text(json.dumps(values), encoding="utf-8")


def measure(folder):
    """Results as training, compression and evaluation write them."""
    write_json(folder / SUMMARY, {
        "status": "finished", "tokens": 123456, "steps": 77, "sequence_length": 48,
        "val_loss": 3.98125854, "val_bits_per_byte": None, "data": {"name": "stories"}, "seed": 3,
        **MADE,
    })  # fmt: skip
    task = {"documents": 1000, "accuracy": 0.503, "accuracy_interval": [0.472, 0.534],
            "bits_per_byte": 1.19179}  # fmt: skip
    text = {"tokens": 4321, "nats_per_token": 3.25, "bits_per_byte": 1.5, "protocol": "documents"}
    write_json(folder / EVALUATION, {
        "format": 1, "model_hash": model_hash(load_model(folder / "model")), "protocol": "none",
        "tasks": {"arc_easy": task}, "text": {"a/b.txt": text}, **MADE, "command": "evaluate it",
    })  # fmt: skip
    dense = {"model": "dense", "parameters": {"stored": 1234567}, "disk_bytes": 5e6, "loss": 2.5}
    write_json(folder / "model" / COMPRESSION, {
        "recipe": "Magnitude(sparsity=0.5)", "models": [dense], "validation_tokens": 999,
        "sequence_length": 33,
    })  # fmt: skip


def test_a_run_goes_out_with_a_card_that_has_its_measurements(byte_run, tmp_path):
    pytest.importorskip("gguf")
    measure(byte_run)
    text = export_folder(byte_run, tmp_path / "out", GGUF)
    path = tmp_path / "out/a-run-q8_0.gguf"
    assert text.startswith(f"{path}: architecture llama, 4 layers, ")
    assert "\n  its 2 shared blocks are written once per application, which takes " in text
    assert {one.name for one in (tmp_path / "out").iterdir()} == {path.name, "README.md"}
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    config = load_model(byte_run / "model").config
    assert f"| stored parameters | {count_parameters(config).stored:,} |" in card
    assert f"| executed parameters | {count_parameters(config).executed:,} (a shared" in card
    assert "| layers | 4, which run 2 stored blocks in the order 0 0 1 1 (layer_sharing imm" in card
    for line in (
        "- a-run-q8_0.gguf: architecture llama, 4 layers, ",
        "The measurements below are those of the weights before they were rounded to q8_0.",
        "| training tokens | 123,456 |",
        "| validation loss | 3.9813 nats per token |",
        "Made by `mobilellm train seed=3` (mobilellm 9.8, commit 0123456789ab, torch 7.6, a CPU).",
        "| dense | 1,234,567 | 5 MB | 2.5000 |",
        "on 999 tokens in windows of 33.\n",
        "The command was not recorded.",
        "| task | documents | accuracy | bits per byte |",
        "| arc_easy | 1,000 | 50.3 ± 3.1 | 1.192 |",
        "| b.txt | 4,321 | 3.2500 | 1.5000 | documents |",
        "Made by `evaluate it` (",
        "## Licence\n\nNot stated. Add the licence",
    ):
        assert line in card
    assert "validation, bits per byte" not in card, "it was not measured"


def test_a_card_without_measurements_has_none(byte_run, tmp_path):
    export_folder(byte_run / "model", tmp_path / "out", HUGGINGFACE)
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n")
    assert "# a-run\n" in card
    assert "## Measurements\n\nThe folder of the model has no measurements.\n" in card
    measure(byte_run)
    evaluation = json.loads((byte_run / EVALUATION).read_text(encoding="utf-8"))
    write_json(byte_run / EVALUATION, evaluation | {"model_hash": "of other weights"})
    summary = json.loads((byte_run / SUMMARY).read_text(encoding="utf-8"))
    write_json(byte_run / SUMMARY, summary | {"status": "failed"})
    export_folder(byte_run, tmp_path / "again", HUGGINGFACE)
    card = (tmp_path / "again/README.md").read_text(encoding="utf-8")
    assert "### Evaluation" not in card
    assert "### Training" not in card
    write_json(byte_run / "model" / COMPRESSION, {"recipe": "x"})
    with pytest.raises(ValueError, match=r"compression.json is damaged \(KeyError: 'models'\); c"):
        export_folder(byte_run, tmp_path / "broken", HUGGINGFACE)
    assert not list(tmp_path.glob("broken*"))


def test_a_file_or_a_new_folder_is_written_and_nothing_replaced(byte_run, tmp_path, capsys):
    pytest.importorskip("gguf")
    given = [str(byte_run), "--format", "gguf", "--out"]
    run([*given, str(tmp_path / "m.gguf"), "--type", "q4_0", "--table-type", "f16"])
    printed = capsys.readouterr().out
    assert "f16: token_embd, 10,240 weights\n" in printed
    assert "q4_0: blk.*.attn_q (4), " in printed
    before = (tmp_path / "m.gguf").read_bytes()
    with pytest.raises(ValueError, match=r"--out=.*m.gguf exists and is never overwritten; give"):
        run([*given, str(tmp_path / "m.gguf")])
    assert (tmp_path / "m.gguf").read_bytes() == before
    with pytest.raises(ValueError, match="is in use and is never overwritten"):
        run([*given, str(tmp_path)])
    shutil.copytree(byte_run / "model", tmp_path / "bare")
    (tmp_path / "bare/tokenizer.json").unlink()
    names = sorted(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.model or tokenizer.json, w"):
        run([str(tmp_path / "bare"), *given[1:], str(tmp_path / "out")])
    assert sorted(tmp_path.iterdir()) == names


def test_the_current_folder_is_not_replaced(byte_run, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for out in (".", "../empty"):
        with pytest.raises(ValueError, match=r"is the current folder, which cannot be replaced by"):
            run([str(byte_run), "--format", "huggingface", "--out", out])
    assert not list((tmp_path / "empty").iterdir())


def test_a_model_goes_out_as_it_is_stored(byte_run, tmp_path):
    settings = ExportSettings(format="huggingface", custom_code=True)
    text = export_folder(byte_run, tmp_path / "out", settings)
    stored = count_parameters(load_model(byte_run / "model").config).stored
    assert f": 4 layers, {stored:,} parameters, " in text
    assert "; the model itself has" not in text
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "from_pretrained(FOLDER, trust_remote_code=True)" in card


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match="--type has no effect on --format huggingface; leave it"):
        ExportSettings(format="huggingface", kind="f16")
    with pytest.raises(ValueError, match="--custom-code has no effect on --format gguf; leave it"):
        ExportSettings(format="gguf", custom_code=True)
    with pytest.raises(ValueError, match="--format='onnx' is not known; use one of"):
        ExportSettings(format="onnx")
