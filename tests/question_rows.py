"""Rows with reasons about real words, as a large model might have written them."""

import json
from pathlib import Path

from mobilellm.data import RationaleData, prepare_data

WORDS = sorted(
    {word for word in Path(json.__file__).read_text(encoding="utf-8").split() if word.isalpha()}
)


def rows(count=60, choices=True):
    made = []
    for index in range(count):
        words = [WORDS[(index * step + 5) % len(WORDS)] for step in (1, 3, 7)]
        label = max(words, key=len)
        row = {
            "question": f"Which of these is the longest word, in case {index}?",
            "answer": label,
            "why": f"The others have at most {sorted(map(len, words))[-2]} letters. "
            * (1 + index % 3),
        }
        made.append(row | ({"choices": words} if choices else {}))
    return made


def write(path, made):
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def config_for(folder, made=None, **options):
    """Rows for training and a third as many for validation."""
    made = rows() if made is None else made
    has_choices = "choices" in made[0]
    settings = {
        "train": str(write(folder / "train.jsonl", made)),
        "validation": str(write(folder / "validation.jsonl", rows(80, has_choices)[60:])),
        "input_column": "question", "label_column": "answer", "rationale_column": "why",
        "choices_column": "choices" if has_choices else None,
        "vocab_size": 300, "prepared_dir": str(folder / "prepared"), "name": "words",
    }  # fmt: skip
    return RationaleData(**settings | options)


def prepare(folder, made=None, **options):
    return prepare_data(config_for(folder, made, **options), progress=False)
