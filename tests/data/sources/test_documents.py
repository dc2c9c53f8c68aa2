import random
import re

import pytest

from mobilellm.data.source import MAX_CHUNK_BYTES, cut_text
from mobilellm.data.sources.documents import read_documents
from mobilellm.data.sources.file_reading import read_utf8
from mobilellm.data.sources.local_files import find_files


def documents(files, rule):
    """Pieces joined to documents."""
    found, parts = [], []
    for chunk in read_documents(files, rule):
        parts.append(chunk.content)
        if chunk.ends_document:
            found.append(b"".join(parts))
            parts = []
    assert not parts
    return found


def random_text(seed, size):
    generator = random.Random(seed)
    words = ["a", "bb", "ccc", " ", "  ", "\n", "\n\n", "\r\n", "\t", "日本", "😀", "é", "x" * 40]
    return " ".join(generator.choice(words) for _ in range(size)).encode()


@pytest.mark.parametrize("limit", [4, 5, 17, 100])
@pytest.mark.parametrize("seed", range(4))
def test_cutting_loses_nothing_and_keeps_characters_whole(limit, seed):
    text = random_text(seed, 300)
    parts = list(cut_text(text, limit))
    assert b"".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts)
    for part in parts:
        part.decode()


def test_cuts_fall_before_runs_of_spaces_where_there_are_any():
    text = b"word   word  another word one " * 50
    starts = [part[:1] for part in cut_text(text, 40)]
    assert set(starts[1:]) == {b" "}
    ends = [part[-1:] for part in cut_text(text, 40)]
    assert b" " not in ends[:-1]


def test_cutting_the_empty_text_gives_nothing():
    assert list(cut_text(b"", 10)) == []


@pytest.mark.parametrize("size", [0, 1, 100, 60_000])
def test_file_is_one_document_unchanged(tmp_path, size):
    text = random_text(1, size) + b" end\r\n"
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"second")
    files = find_files(str(tmp_path), (), "data.train")
    assert [file.name for file in files] == ["a.txt", "b.txt", "empty.txt"]
    assert documents(files, "file") == [text, b"second"]


def test_pieces_are_small_whatever_the_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"word " * 200_000)
    chunks = list(read_documents([tmp_path / "a.txt"], "file"))
    assert [chunk.ends_document for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(len(chunk.content) <= MAX_CHUNK_BYTES for chunk in chunks)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_and_blank_line(tmp_path, end):
    file = tmp_path / "a.txt"
    file.write_bytes(end.join(["", "one", "two  ", " ", "\tthree", "", "", "four"]).encode())
    assert documents([file], "line") == [b"one", b"two  ", b"\tthree", b"four"]
    assert documents([file], "blank_line") == [
        f"one{end}two  ".encode(),
        b"\tthree",
        b"four",
    ]


def test_long_lines_and_paragraphs_over_many_blocks(tmp_path):
    generator = random.Random(0)
    lines = ["w " * generator.choice([0, 3, 40_000, 700_000]) for _ in range(30)]
    file = tmp_path / "a.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    assert documents([file], "line") == [line.encode() for line in lines if line]
    paragraphs = re.split(r"\n(?:\n)+", "\n".join(lines).strip("\n"))
    assert documents([file], "blank_line") == [text.encode() for text in paragraphs]


def test_regular_expression_begins_documents_and_leaves_nothing_out(tmp_path):
    text = "preface\n = One = \n\n = = Part = = \n text\n = Two = \nend"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text("untitled\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("\n \n = Three = \n\n = Four = ", encoding="utf-8")
    files = [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"]
    found = documents(files, "^ = [^=].* = $")
    assert found == [
        b"preface\n",
        b" = One = \n\n = = Part = = \n text\n",
        b" = Two = \nend",
        b"untitled\n",
        b"\n \n = Three = \n\n",
        b" = Four = ",
    ]


def test_regular_expression_that_matches_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("text\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data.document='blankline' matches no line of the text"):
        documents([tmp_path / "a.txt"], "blankline")


@pytest.mark.parametrize("offset", [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 5])
def test_bytes_that_are_not_utf8_are_named(tmp_path, offset):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"a" * offset + "é".encode("latin1") + b"b" * 10)
    with pytest.raises(ValueError, match=rf"latin.txt is not UTF-8: byte 0xe9 at offset {offset};"):
        list(read_utf8(file))


def test_text_that_ends_within_a_character(tmp_path):
    (tmp_path / "cut.txt").write_bytes("日".encode()[:2])
    with pytest.raises(ValueError, match=r"cut.txt is not UTF-8: byte 0xe6 at offset 0"):
        list(read_utf8(tmp_path / "cut.txt"))


def test_characters_across_blocks(tmp_path):
    text = ("a" + "日" * 700_000).encode()
    (tmp_path / "a.txt").write_bytes(text)
    assert b"".join(read_utf8(tmp_path / "a.txt")) == text


def test_folders_patterns_and_single_files(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden/d.txt", "e.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")

    def names(path, *suffixes):
        return [f.relative_to(tmp_path).as_posix() for f in find_files(path, suffixes, "f")]

    assert names(str(tmp_path)) == ["a.txt", "b.txt", "e.md", "sub/c.txt"]
    assert names(str(tmp_path), ".txt") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(f"{tmp_path}/*.txt") == ["a.txt", "b.txt"]
    assert names(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(f"{tmp_path}/b.txt") == ["b.txt"]


def test_paths_that_do_not_exist_or_are_empty(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"data.train=nowhere.txt does not exist in /.*; give"
    ):
        find_files("nowhere.txt", (), "data.train")
    with pytest.raises(FileNotFoundError, match=r"data.train=/no/\*.txt does not exist; give"):
        find_files("/no/*.txt", (), "data.train")
    with pytest.raises(ValueError, match=r"data.train=.* is empty: no files ending in .parquet"):
        find_files(str(tmp_path), (".parquet",), "data.train")
