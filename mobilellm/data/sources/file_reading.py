"""Read files, which may be compressed, as blocks of bytes, UTF-8 text or lines."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 20

COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
"""Compression formats by the suffix of a file's name."""

# First bytes of files that are often mistaken for text, with a description and a remedy.
_KNOWN = (
    (b"\x1f\x8b", "compressed with gzip; its name must end in .gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; its name must end in .zst"),
    (b"BZh", "compressed with bzip2; its name must end in .bz2"),
    (b"\xfd7zXZ\0", "compressed with xz; its name must end in .xz"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"PAR1", "a Parquet file; use data=parquet"),
    (b"%PDF", "a PDF document; extract its text, for instance with `pdftotext`"),
)
# Byte order marks. Those of UTF-32 are tested first, because they begin like those of UTF-16.
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_blocks(path: Path) -> Iterator[bytes]:
    """The contents of a file in blocks; `.gz`, `.bz2`, `.xz` and `.zst` files are decompressed.

    Raises:
        ValueError: a compressed file is truncated, damaged or in another format.
    """
    packed_with = COMPRESSED.get(path.suffix)
    if packed_with is None:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        return
    # Opened before decompression, so that a missing or unreadable file is not called damaged.
    path.open("rb").close()
    try:
        with _unpacked(path, packed_with) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path} is damaged, truncated or not compressed with {packed_with} ({reason}); "
            "download it again, correct the suffix of its name, or leave it out"
        ) from error


def _unpacked(path: Path, packed_with: str) -> AbstractContextManager[Any]:
    if packed_with == "zstd":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    return {"gzip": gzip, "bzip2": bz2, "xz": lzma}[packed_with].open(path)


def read_utf8(path: Path) -> Iterator[bytes]:
    """Yield blocks of UTF-8 text; no block ends within a character.

    Raises:
        ValueError: the file is not UTF-8 (the message gives the offset), or is damaged.
    """
    carried, offset = b"", 0
    begin = b""
    for read in read_blocks(path):
        begin = begin or read
        block, carried = carried + read, b""
        try:
            block.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                raise _not_utf8(path, offset + error.start, block[error.start], begin) from None
            block, carried = block[: error.start], block[error.start :]
        offset += len(block)
        yield block
    if carried:
        raise _not_utf8(path, offset, carried[0], begin)


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their line ends; only a line feed ends a line."""
    carried: list[bytes] = []
    for block in blocks:
        *lines, rest = block.split(b"\n")
        for line in lines:
            yield b"".join((*carried, line, b"\n"))
            carried = []
        if rest:
            carried.append(rest)
    if carried:
        yield b"".join(carried)


def describe_not_utf8(begin: bytes) -> str:
    """Describe a file that is not UTF-8, judging by its first bytes, and what to do about it."""
    for signature, description in _KNOWN:
        if begin.startswith(signature):
            return f"it is {description}"
    encoding = next((name for mark, name in _MARKS if begin.startswith(mark)), None)
    if encoding is None and 4 * begin.count(0) > len(begin):
        # In UTF-16, characters below U+0100 have one zero byte: half of the bytes of such text.
        encoding = "utf-16be" if begin[0::2].count(0) > begin[1::2].count(0) else "utf-16le"
    if encoding is not None:
        return f"it is {encoding.upper()}; convert it with `iconv -f {encoding} -t utf-8`"
    return "convert it, for instance with `iconv -f latin1 -t utf-8`, or leave the file out"


def _not_utf8(path: Path, offset: int, byte: int, begin: bytes) -> ValueError:
    return ValueError(
        f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset}; {describe_not_utf8(begin)}"
    )
