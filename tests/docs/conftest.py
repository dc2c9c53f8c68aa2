"""A working folder with everything that the commands and examples of the documentation name."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from benchmark_rows import write_rows
from command_process import run_command
from gguf_writing import write_gguf
from tiny_tokenizers import make_byte_level

from mobilellm.formats.huggingface import export_huggingface
from mobilellm.models import MobileLLM, ModelConfig

MINE = """
defaults: [tiny_deep]
num_blocks: 6
"""
# A run of seconds; the documented commands are cut to the same windows.
SHORT = ["max_tokens=1024", "tokens_per_step=512", "sequence_length=64", "validation_tokens=512",
         "trainer=cpu", "trainer.num_threads=1"]  # fmt: skip
SECONDS = 300
"""The longest time of a command."""


@pytest.fixture(scope="session")
def run_in() -> Callable[..., str]:
    """Run Python in a folder, as `mobilellm …` unless told otherwise; its output."""

    def run(folder: Path, arguments: Sequence[str], starter: Sequence[str] = ()) -> str:
        if starter:
            done = subprocess.run(
                [sys.executable, *starter, *arguments],
                cwd=folder, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
            )  # fmt: skip
        else:
            done = run_command(*arguments, folder=folder, seconds=SECONDS)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def texts(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders and files of text that the documentation names."""
    folder = tmp_path_factory.mktemp("texts")
    shutil.copytree(corpus, folder / "corpus")
    (folder / "books").symlink_to("corpus")
    (folder / "book.txt").symlink_to("corpus/argparse.txt")
    articles = [
        f" = {path.stem.title()} = \n\n{path.read_text(encoding='utf-8')}\n"
        for path in sorted(corpus.iterdir())
    ]
    (folder / "wikitext-2").mkdir()
    for name, part in (("train", articles[:-4]), ("valid", articles[-4:])):
        (folder / f"wikitext-2/{name}.txt").write_text("".join(part), encoding="utf-8")
    rows = [_row(line, number) for number, line in enumerate(_lines(corpus))]
    for name, some in (("train", rows[:-60]), ("test", rows[-60:]), ("validation", rows[-60:])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "valid.txt").symlink_to("wikitext-2/valid.txt")
    (folder / "wiki.test.raw").symlink_to("wikitext-2/valid.txt")
    (folder / "stories.jsonl").symlink_to("train.jsonl")
    write_rows(folder / "benchmarks")
    write_rows(folder / "benchmarks", "arc_easy", splits=("train",))
    (folder / "my_conf/model").mkdir(parents=True)
    (folder / "my_conf/model/mine.yaml").write_text(MINE, encoding="utf-8")
    return folder


def _lines(corpus: Path) -> list[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir()))
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if 20 < len(line) < 60 and len(line.split()) > 3][:2000]


def _row(line: str, number: int) -> dict[str, object]:
    """A row with the columns of every documented data set."""
    words = line.split()
    choices = [words[0], words[-1], words[1]]
    return {
        "text": line * 4, "input": line, "question": line, "label": choices[number % 3],
        "answer": choices[number % 3], "choices": choices, "rationale": f"It is in: {line[:20]}",
    }  # fmt: skip


@pytest.fixture(scope="session")
def example_runs(
    texts: Path, run_in: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder in which RUN, MODEL_DIR, TEACHER and the others are trained models of seconds."""
    folder = tmp_path_factory.mktemp("examples")
    for path in texts.iterdir():
        (folder / path.name).symlink_to(path)
    base = ["model=tiny_deep", "model.num_blocks=4", "data=text", "data.train=corpus/", *SHORT]
    run_in(folder, ["train", *base, "experiment_name=examples"])
    [run] = (folder / "outputs/examples").iterdir()
    for name in ("RUN", "MODEL_DIR", "OTHER_DIR", "TEACHER", "DENSE", "STUDENT"):
        (folder / name).symlink_to(run)
    (folder / "tokenizer.model").symlink_to(run / "model/tokenizer.model")
    run_in(folder, ["export", "RUN", "--format", "huggingface", "--out", "CHECKPOINT"])
    _write_chat_model(folder)
    return folder


def _write_chat_model(folder: Path) -> None:
    """Write CHAT_MODEL and model.gguf: an untrained model with the tokens of SmolLM2's size."""
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endfor %}"
    text = (folder / "book.txt").read_text(encoding="utf-8")
    path = make_byte_level(folder / "tokenizer", vocab_size=512, template=template, text=text)
    config = ModelConfig(
        vocab_size=49_152, hidden_size=32, intermediate_size=64, num_blocks=2,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = MobileLLM(config)
    export_huggingface(model, folder / "CHAT_MODEL", path)
    write_gguf(folder / "model.gguf", model, path)
