"""A larger model's answers to a file of prompts, as the training data of a smaller one.

Answers are appended to `<out>.partial` batch by batch, so that the same command continues after an
interruption. At the end the rows are written to `<out>`, and what made them to
`<out>.manifest.json`.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mobilellm.data.sources.jsonl import JSON_LINES, read_rows
from mobilellm.data.sources.parquet import read_parquet_rows
from mobilellm.data.tokenizers.answer import Answer
from mobilellm.files import atomic_write, sole_writer, write_bytes_atomically
from mobilellm.inference.answering import Answering, answer_batch
from mobilellm.inference.loaded_model import LoadedModel
from mobilellm.inference.prompt_rows import PromptRows
from mobilellm.paths import check_writable
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.provenance import provenance
from mobilellm.strict_json import to_json

logger = logging.getLogger(__name__)

Facts = dict[str, Any]
LOG_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class AnsweredFile:
    """Which prompts are answered, and where the answers are written."""

    data: Path
    """JSON lines or Parquet with the prompts."""
    out: Path
    """JSON lines with the answers; does not exist."""
    rows: PromptRows
    """How rows become prompts."""
    answering: Answering
    """How answers are generated."""
    limit: int | None = None
    """Answer the first rows only; None: all."""

    def __post_init__(self) -> None:
        """Check the files.

        Raises:
            FileNotFoundError: there are no prompts.
            ValueError: the answers exist or cannot be written, or a name has an unknown ending.
        """
        if not self.data.is_file():
            raise FileNotFoundError(f"--data={self.data} is not a file")
        self.check_new()
        if not self.out.name.endswith(".jsonl"):
            raise ValueError(f"--out={self.out} must end with .jsonl: it is written as JSON lines")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit={self.limit} must be at least 1; leave it out for all rows")
        if not self.data.name.endswith((*JSON_LINES, ".parquet")):
            raise ValueError(
                f"--data={self.data} must be JSON lines or Parquet ({', '.join(JSON_LINES)}, "
                ".parquet)"
            )
        check_writable("--out", self.out.absolute().parent)

    def check_new(self) -> None:
        """Check that there are no answers yet.

        Raises:
            ValueError: there are.
        """
        if self.out.exists():
            raise ValueError(f"--out={self.out} exists; choose another file, or remove it")

    @property
    def partial(self) -> Path:
        """The answers so far, one line for each row."""
        return self.out.with_name(f"{self.out.name}.partial")

    @property
    def manifest(self) -> Path:
        """What made the answers."""
        return self.out.with_name(f"{self.out.name}.manifest.json")

    def read(self) -> Iterator[tuple[dict[str, Any], str]]:
        """The rows, each with its location for messages."""
        is_parquet = self.data.suffix == ".parquet"
        found = read_parquet_rows(self.data) if is_parquet else read_rows([self.data])
        return islice(found, self.limit)


def generate_data(loaded: LoadedModel, task: AnsweredFile) -> Facts:
    """Answer all prompts of a file, or continue an interrupted call with the same settings.

    Args:
        loaded: the model, on the device that it is to run on.
        task: what is answered.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: the model has no tokenizer.
        ValueError: there are no rows, a row has no prompt, the model's context has no room for one,
            another process writes the answers, or unfinished answers were made with other settings.
        OSError: a file could not be written.
    """
    _check_room(loaded, task)
    with sole_writer("--out", task.out):
        task.check_new()  # another process may have written them since the task was made
        _check_rows(loaded, task)
        return _answer_rows(loaded, task)


def _check_room(loaded: LoadedModel, task: AnsweredFile) -> None:
    """Check that some prompt can be answered.

    Raises:
        ValueError: answers fill the context of the model.
    """
    context, answer = loaded.config.max_position_embeddings, task.answering.max_new_tokens
    if answer >= context:
        raise ValueError(
            f"max_new_tokens={answer} leaves no room for a prompt in "
            f"max_position_embeddings={context}; give a smaller --max-new-tokens"
        )


def _check_rows(loaded: LoadedModel, task: AnsweredFile) -> None:
    """Check that all rows have prompts, before anything is generated.

    Raises:
        FileNotFoundError: the model has no tokenizer.
        ValueError: there are no rows, or one has no prompt.
    """
    tokenizer, number = loaded.required_tokenizer(), 0
    for row, place in task.read():
        task.rows.tokens(row, place, loaded.config, tokenizer)
        number += 1
    if not number:
        raise ValueError(f"--data={task.data} has no rows; give at least one prompt")


def _answer_rows(loaded: LoadedModel, task: AnsweredFile) -> Facts:
    """Answer all rows that are not answered yet; see `generate_data`."""
    identity = _identity(loaded, task)
    done = _continued(task, identity)
    started, told = time.perf_counter(), time.perf_counter()
    size = task.answering.batch_size
    with task.partial.open("a", encoding="utf-8") as file:
        for number, batch in enumerate(_batches(task)):
            if (number + 1) * size <= done:
                continue
            lines = _answer(loaded, task, batch, number)
            file.writelines(to_json(line, indent=None) + "\n" for line in lines)
            file.flush()
            if time.perf_counter() - told > LOG_SECONDS:
                told = time.perf_counter()
                logger.info("%d rows answered", number * size + len(batch))
    return _finish(task, identity, time.perf_counter() - started)


def _batches(task: AnsweredFile) -> Iterator[list[tuple[dict[str, Any], str]]]:
    rows = task.read()
    while batch := list(islice(rows, task.answering.batch_size)):
        yield batch


def _identity(loaded: LoadedModel, task: AnsweredFile) -> Facts:
    """All that the answers depend on."""
    with task.data.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {
        "model": {
            "folder": str(loaded.folder),
            "hash": model_hash(loaded.model),
            "tokenizer": loaded.required_tokenizer().fingerprint(),
        },
        "data": {"file": str(task.data), "hash": digest, "limit": task.limit},
        "prompts": asdict(task.rows),
        "settings": task.answering.to_dict(),
    }


def _continued(task: AnsweredFile, identity: Facts) -> int:
    """Number of rows that are answered already, in whole batches; others are cut off.

    Raises:
        ValueError: they were answered with other settings, or by something else.
    """
    begun = task.partial.with_name(f"{task.partial.name}.json")
    lines = task.partial.read_bytes().splitlines(keepends=True) if task.partial.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    if lines and not begun.exists():
        raise ValueError(
            f"{task.partial} exists without {begun.name}, and is not overwritten; remove it, or "
            "choose another --out"
        )
    if not whole:
        write_bytes_atomically(begun, [to_json(identity).encode()])
        task.partial.write_bytes(b"")
        return 0
    earlier = json.loads(begun.read_text(encoding="utf-8"))
    changed = [
        f"{group}.{name}"
        for group, values in json.loads(to_json(identity)).items()
        for name, value in values.items()
        if name not in ("folder", "file") and earlier.get(group, {}).get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{task.partial} has answers of another call: {', '.join(changed)} differ; give the "
            "same settings, choose another --out, or remove that file"
        )
    size = task.answering.batch_size
    # A last batch that is not full is answered again, if it is the last one of the file as well.
    count = len(whole) // size * size
    write_bytes_atomically(task.partial, whole[:count])
    if count:
        logger.info("continuing after %d rows of %s", count, task.partial)
    return count


def _answer(
    loaded: LoadedModel, task: AnsweredFile, batch: list[tuple[dict[str, Any], str]], number: int
) -> list[Facts]:
    """One line for each row of a batch: its answer, or why there is none."""
    tokenizer, settings = loaded.required_tokenizer(), task.answering
    prompts = [task.rows.tokens(row, place, loaded.config, tokenizer) for row, place in batch]
    room = loaded.config.max_position_embeddings - settings.max_new_tokens
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= room]
    answers: list[Answer] = answer_batch(
        loaded.model, tokenizer, [prompts[index] for index in fitting], settings, batch=number
    )
    lines: list[Facts] = [{"left_out": "too_long"} for _ in batch]
    for index, answer in zip(fitting, answers, strict=True):
        reason = "cut_off" if answer.is_cut else None
        reason = reason or (None if answer.text else "empty")
        counted = {"prompt_tokens": len(prompts[index]), "new_tokens": answer.tokens}
        lines[index] = counted | ({"left_out": reason} if reason else {"answer": answer.text})
    return lines


def _finish(task: AnsweredFile, identity: Facts, seconds: float) -> Facts:
    """Write the rows with answers and the manifest, and remove the partial file."""
    counts: Counter[str] = Counter()
    with atomic_write(task.out) as temporary:
        with temporary.open("w", encoding="utf-8") as file, task.partial.open("rb") as lines:
            for (row, place), line in zip(task.read(), lines, strict=True):
                answer: Mapping[str, Any] = json.loads(line)
                counts.update({k: v for k, v in answer.items() if k.endswith("_tokens")})
                counts[answer.get("left_out", "written")] += 1
                if "answer" in answer:
                    record = task.rows.answered(row, place, answer["answer"])
                    file.write(to_json(record, indent=None, ensure_ascii=False) + "\n")
        names = ("written", "too_long", "cut_off", "empty", "prompt_tokens", "new_tokens")
        made = {"counts": {name: counts[name] for name in names}, "seconds": round(seconds, 3)}
        facts = {**identity, **made, **provenance()}
        write_bytes_atomically(task.manifest, [to_json(facts).encode()])
    for path in (task.partial, task.partial.with_name(f"{task.partial.name}.json")):
        path.unlink()
    return facts
