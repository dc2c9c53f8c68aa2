"""A small configuration to prepare, and what lies in its folder afterwards."""

import random
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from mobilellm.data import (
    TextData,
    prepare_data,
)

LIBRARY = Path(random.__file__).parent
MODULES = [
    "abc",
    "bisect",
    "calendar",
    "copy",
    "glob",
    "queue",
    "random",
    "shlex",
    "textwrap",
    "uuid",
]


def config_for(corpus, **kwargs):
    folder = corpus.parent / "prepared"
    settings = {
        "train": str(corpus / "train"),
        "validation": str(corpus / "validation"),
        "vocab_size": 400,
        "prepared_dir": str(folder),
    }
    return TextData(**{**settings, **kwargs})


def prepare(config, **kwargs):
    return prepare_data(config, progress=False, **kwargs)


def naive_stream(prepared, texts, eos=(2,)):
    processor = SentencePieceProcessor(model_file=str(prepared.tokenizer_path))
    return [token for text in texts for token in (*processor.encode(text), *eos)]


def read_all(folder):
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def snapshot(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def finished_shards(folder):
    return {path: at for path, at in snapshot(folder).items() if path.suffix == ".tokens"}
