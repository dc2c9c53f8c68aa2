"""Split text files into documents, without loading a whole file or a whole document."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mobilellm.data.source import MAX_CHUNK_BYTES, Chunk, cut_text
from mobilellm.data.sources.file_reading import read_utf8, split_lines

DOCUMENT_RULES = ("file", "line", "blank_line")

# A part of a text, and whether a document begins with it.
_Part = tuple[bytes, bool]


def read_documents(files: Iterable[Path], rule: str) -> Iterator[Chunk]:
    """Yield the documents of UTF-8 files as chunks; a file always begins a new document.

    Args:
        files: the files, in the order of reading.
        rule: `file`, `line`, `blank_line` or a regular expression; see `TextFiles.document`.

    Raises:
        ValueError: the text is not UTF-8, or no line matches the regular expression.
    """
    if rule in DOCUMENT_RULES:
        split = {"file": _whole, "line": _lines, "blank_line": _paragraphs}[rule]
        for file in files:
            yield from _assemble(split(read_utf8(file)))
        return
    yield from join_sections((split_lines(read_utf8(file)) for file in files), rule)


def compile_rule(rule: str, choices: Sequence[str] = DOCUMENT_RULES) -> re.Pattern[str]:
    """Compile a rule for documents as a regular expression; `choices` are for the message.

    Raises:
        ValueError: the rule is not a regular expression.
    """
    try:
        return re.compile(rule)
    except re.error as error:
        raise ValueError(
            f"data.document={rule!r} is not a regular expression ({error}); use "
            f"{', '.join(choices)}, or an expression that matches the start of each document"
        ) from None


def join_sections(files: Iterable[Iterable[bytes]], rule: str) -> Iterator[Chunk]:
    """Join the parts of each file into documents; a part that matches the rule begins a new one.

    Args:
        files: the parts of each file, such as lines with their line ends.
        rule: a regular expression that is matched against the start of each part.

    Raises:
        ValueError: no part matches.
    """
    title = compile_rule(rule)
    num_titles = 0

    def parts(file: Iterable[bytes]) -> Iterator[_Part]:
        nonlocal num_titles
        is_blank = True
        for number, part in enumerate(file):
            begins = title.match(part.rstrip(b"\r\n").decode()) is not None
            num_titles += begins
            # Blank lines before the first title belong to its document.
            yield part, number == 0 or (begins and not is_blank)
            is_blank = is_blank and not part.strip()

    for file in files:
        yield from _assemble(parts(file))
    if not num_titles:
        raise ValueError(
            f"data.document={rule!r} matches no line of the text; use "
            f"{', '.join(DOCUMENT_RULES)}, or an expression that the first line of each document "
            "matches"
        )


def _assemble(parts: Iterable[_Part]) -> Iterator[Chunk]:
    """Join parts into chunks; a chunk is yielded once it is known whether its document ends."""
    held: list[bytes] = []
    size = 0
    for part, begins_document in parts:
        if begins_document and held:
            yield from _ended(held)
            held, size = [], 0
        if part:
            held.append(part)
            size += len(part)
        if size > 2 * MAX_CHUNK_BYTES:
            *complete, last = cut_text(b"".join(held), MAX_CHUNK_BYTES)
            for chunk in complete:
                yield Chunk(chunk, False)
            held, size = [last], len(last)
    yield from _ended(held)


def _ended(held: list[bytes]) -> Iterator[Chunk]:
    parts = list(cut_text(b"".join(held), MAX_CHUNK_BYTES))
    for number, part in enumerate(parts, start=1):
        yield Chunk(part, number == len(parts))


def _whole(blocks: Iterable[bytes]) -> Iterator[_Part]:
    for number, block in enumerate(blocks):
        yield block, number == 0


def _lines(blocks: Iterable[bytes]) -> Iterator[_Part]:
    for line in split_lines(blocks):
        if line.strip():
            yield line.rstrip(b"\r\n"), True


def _paragraphs(blocks: Iterable[bytes]) -> Iterator[_Part]:
    line_end = b""
    begins = True
    for line in split_lines(blocks):
        if not line.strip():
            begins = True
            continue
        text = line.rstrip(b"\r\n")
        yield (text if begins else line_end + text), begins
        line_end, begins = line[len(text) :], False
