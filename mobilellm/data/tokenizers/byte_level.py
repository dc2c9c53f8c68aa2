"""Which bytes of text the tokens of a tokenizer.json stand for."""

import re
from collections.abc import Mapping
from typing import Any

BYTE_LEVEL_SPACE = "\u0120"
"""The character that byte-level tokenizers use for the byte of a space."""
_SPACE_MARK = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def byte_level_alphabet() -> dict[str, int]:
    """The 256 characters by which byte-level tokenizers write the 256 bytes, with their bytes.

    Printable characters of Latin-1 stand for their own byte, and the other 68 bytes are written as
    the characters from U+0100.

    Source: Radford et al. 2019, GPT-2, `bytes_to_unicode` of its published code.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    written = {chr(byte): byte for byte in printable}
    return written | {chr(0x100 + number): byte for number, byte in enumerate(others)}


def bytes_of_pieces(vocabulary: Mapping[str, int], values: Mapping[str, Any]) -> dict[int, bytes]:
    """The UTF-8 text of each token of a vocabulary (added tokens excluded), by token.

    Args:
        vocabulary: tokens by their pieces.
        values: the contents of the tokenizer.json.

    Raises:
        ValueError: the decoder is neither that of byte-level tokens nor that of SentencePiece.
    """
    kinds = set(_kinds(values.get("decoder"))) | set(_kinds(values.get("pre_tokenizer")))
    if "ByteLevel" in kinds:
        alphabet = byte_level_alphabet()
        return {
            token: bytes(alphabet[character] for character in piece)
            if all(character in alphabet for character in piece)
            else piece.encode()
            for piece, token in vocabulary.items()
        }
    if kinds & {"Metaspace", "ByteFallback"}:
        has_bytes = bool(values["model"].get("byte_fallback"))
        return {
            token: bytes([int(piece[3:5], 16)])
            if has_bytes and _BYTE_TOKEN.fullmatch(piece)
            else piece.replace(_SPACE_MARK, " ").encode()
            for piece, token in vocabulary.items()
        }
    raise ValueError(
        f"has the decoder {', '.join(_kinds(values.get('decoder'))) or None}, which does not say "
        "how many bytes of text a token stands for; use a byte-level tokenizer (ByteLevel) or one "
        "of SentencePiece (Metaspace, ByteFallback)"
    )


def _kinds(part: Any) -> list[str]:
    """The types of a decoder or pre-tokenizer, those of a sequence included."""
    if not isinstance(part, Mapping):
        return []
    inner = part.get("decoders") or part.get("pretokenizers") or []
    return [str(part.get("type"))] + [kind for one in inner for kind in _kinds(one)]
