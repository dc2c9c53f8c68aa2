import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_tokenizers import make_byte_level

from mobilellm.data import DataConfig, HubData, TextData
from mobilellm.data.resolved import data_name, resolve_data
from mobilellm.hydra_app.configuration import compose, instantiate

ROOT = Path(__file__).resolve().parents[2]
CHOICES = sorted(path.stem for path in (ROOT / "conf" / "data").glob("*.yaml"))
REQUIRED = {
    "conversations": ["data.train=a.jsonl"],
    "conversations_hub": ["data.dataset_name=owner/name"],
    "hub": ["data.dataset_name=owner/name"],
    "jsonl": ["data.train=a.jsonl"],
    "mixture": ["data.sources.text.train=a.txt"],
    "parquet": ["data.train=a.parquet"],
    "preferences": ["data.train=a.jsonl"],
    "preferences_hub": ["data.dataset_name=owner/name"],
    "rationales": ["data.train=a.jsonl"],
    "rationales_hub": ["data.dataset_name=owner/name"],
    "text": ["data.train=corpus/a.txt"],
    "tokenized_jsonl": ["data.train=a.jsonl"],
}


@pytest.fixture
def chat_tokenizer(tmp_path):
    return make_byte_level(tmp_path, template="{{ messages[0]['content'] + eos_token }}")


def data_of(choice, *overrides):
    required = REQUIRED.get(choice, [])
    return instantiate(compose("prepare_data", [f"data={choice}", *required, *overrides]).data)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_can_be_built(choice, chat_tokenizer):
    given = (
        [f"data.tokenizer={chat_tokenizer}"]
        if choice.startswith(("conversations", "preferences"))
        else []
    )
    data = data_of(choice, "model.vocab_size=512", "prepared_dir=elsewhere", *given)
    assert isinstance(data, DataConfig)
    assert data.vocab_size == 512
    folder = resolve_data(data).folder
    assert folder.parent == Path("elsewhere")
    # A given tokenizer takes the place of the size of the vocabulary.
    end = "[0-9a-f]{8}" if given else "512"
    assert re.fullmatch(f"{re.escape(data_name(data))}-{end}", folder.name)
    assert data.identity()["format"]


def test_lists_and_regular_expressions_pass_through():
    data = data_of("text", "data.train=[a.txt,b.txt]", r"data.document='^ = [^=].* = $'")
    assert isinstance(data, TextData)
    assert data.train == ("a.txt", "b.txt")
    assert data.document == "^ = [^=].* = $"


def test_presets_name_their_datasets():
    for choice in ("fineweb_edu", "tinystories", "wikitext2", "wikitext103"):
        data = data_of(choice)
        assert isinstance(data, HubData)
        assert data_name(data) == choice
        assert "/" in data.dataset_name


def command(folder, *overrides):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


def test_the_command_prepares_once_and_says_what_there_is(tmp_path):
    text = Path(subprocess.__file__).read_text(encoding="utf-8")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text(text, encoding="utf-8")
    overrides = ["data=text", "data.train=corpus", "data.document=blank_line"]
    first = command(tmp_path, *overrides, "model.vocab_size=400")
    assert first.returncode == 0, first.stderr
    assert "corpus in prepared/corpus-400" in first.stdout
    for part in ("documents", "bytes/token", "vocabulary  400", "unigram", "bigram", "B/s"):
        assert part in first.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "prepared"]
    again = command(tmp_path, *overrides, "model.vocab_size=400")
    assert again.stdout == first.stdout
    assert again.stderr == ""
    refused = command(tmp_path, *overrides, "model.vocab_size=400", "data.held_out=0.5")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: prepared/corpus-400 was prepared from different inputs: data.held_out was 0.05, now"
    )
    assert refused.stderr.count("\n") == 1


def test_the_command_explains_itself(tmp_path):
    shown = command(tmp_path, "--help")
    assert shown.returncode == 0
    assert all(choice in shown.stdout for choice in CHOICES)
    assert not list(tmp_path.iterdir())
