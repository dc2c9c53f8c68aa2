"""Tokenizers in SentencePiece's format, `tokenizer.model`."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mobilellm.data.tokenizers.settings import TokenizerSettings, read_settings
from mobilellm.data.tokenizers.tokenizer import SPACE_MARK, Tokenizer
from mobilellm.files import TOKENIZER_FILE, describe_invalid_file

# Spaces belong to the word after them, as in the tokens of SentencePiece.
_WORDS = re.compile(rb" *[^ ]+| +")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    Args:
        path: the file, for messages and copies.
        content: the bytes of the file.
        settings: of the files beside it.

    Raises:
        RuntimeError: the content is not a SentencePiece model.
    """

    def __init__(self, path: Path, content: bytes, settings: TokenizerSettings) -> None:
        """Load the model."""
        from sentencepiece import SentencePieceProcessor

        super().__init__(path, settings)
        self.processor: SentencePieceProcessor = SentencePieceProcessor()
        self.processor.LoadFromSerializedProto(content)
        self._content = content

    @property
    def vocab_size(self) -> int:
        """See `Tokenizer`."""
        return self.processor.vocab_size()

    @property
    def bos_id(self) -> int | None:
        """See `Tokenizer`."""
        return self._special_id("bos_token", self.processor.bos_id())

    @property
    def eos_id(self) -> int | None:
        """See `Tokenizer`."""
        return self._special_id("eos_token", self.processor.eos_id())

    @property
    def unk_id(self) -> int | None:
        """See `Tokenizer`."""
        return _known(self.processor.unk_id())

    @property
    def pad_id(self) -> int | None:
        """See `Tokenizer`."""
        return self._special_id("pad_token", self.processor.pad_id())

    @property
    def adds_bos(self) -> bool | None:
        """See `Tokenizer`; a SentencePiece model alone does not state it."""
        return self.settings.flag("add_bos_token")

    def encode(self, text: str | bytes) -> list[int]:
        """See `Tokenizer`."""
        return self.processor.encode(text)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """See `Tokenizer`."""
        return [self.processor.encode(text) for text in texts]

    def encode_rendered(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        tokens: list[int] = []
        for part in self._parts(text):
            tokens += [self._names[part]] if part in self._names else self.encode(part)
        return tokens

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """See `Tokenizer`."""
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        begin = 0
        for part in self._parts(text):
            if part in self._names:
                tokens.append(self._names[part])
                spans.append((begin, begin + len(part)))
            else:
                found, offsets = self._encode_part(part)
                tokens += found
                spans += [(begin + first, begin + last) for first, last in offsets]
            begin += len(part)
        return tokens, spans

    def _encode_part(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of a text without special tokens, and the characters of each."""
        pieces = self.processor.encode(text, return_type="proto").pieces
        # The offsets are in bytes of UTF-8. A byte token in a character stands for all of it.
        starts = [n for n, one in enumerate(text) for _ in one.encode()]
        starts.append(len(text))
        return [piece.id for piece in pieces], [
            (starts[piece.begin], starts[piece.end - 1] + 1)
            if piece.end > piece.begin
            else (starts[piece.begin],) * 2
            for piece in pieces
        ]

    @property
    def special_ids(self) -> frozenset[int]:
        """See `Tokenizer`: the control tokens."""
        ends = {token for token in (self.bos_id, self.eos_id) if token is not None}
        return frozenset(ends.union(self._names.values()))

    @cached_property
    def _names(self) -> dict[str, int]:
        """The control tokens by name."""
        tokens = range(self.vocab_size)
        return {self.piece(token): token for token in tokens if self.processor.is_control(token)}

    def _parts(self, text: str) -> list[str]:
        """The names of control tokens in a text, and what stands between them."""
        if not self._names:
            return [text]
        longest_first = sorted(self._names, key=len, reverse=True)
        return re.split(f"({'|'.join(map(re.escape, longest_first))})", text)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return self.processor.decode(list(tokens))

    def piece(self, token: int) -> str:
        """See `Tokenizer`."""
        return self.processor.id_to_piece(token)

    def find(self, piece: str) -> int | None:
        """See `Tokenizer`."""
        token = self.processor.piece_to_id(piece)
        return token if self.piece(token) == piece else None

    def fingerprint(self) -> str:
        """See `Tokenizer`; a hash of tokens and scores."""
        digest = hashlib.blake2b(digest_size=16)
        for token in range(self.vocab_size):
            score = self.processor.get_score(token)
            digest.update(f"{self.piece(token)}\t{score!r}\n".encode())
        return digest.hexdigest()

    def _find_bytes(self) -> list[bytes]:
        processor = self.processor
        found = [b""] * self.vocab_size
        for token in range(self.vocab_size):
            if processor.is_byte(token):
                found[token] = bytes([int(self.piece(token)[3:5], 16)])
            elif not (processor.is_control(token) or processor.is_unknown(token)):
                found[token] = self.piece(token).replace(SPACE_MARK, " ").encode()
        return found

    @property
    def adds_space(self) -> bool:
        """See `Tokenizer`; some models, such as Llama's, do."""
        return str(self.processor.encode("a", out_type=str)[0]).startswith(SPACE_MARK)

    def words(self, text: bytes) -> list[bytes]:
        """See `Tokenizer`."""
        return _WORDS.findall(text)

    def last_word_end(self, text: bytes) -> int:
        """See `Tokenizer`: all sources cut documents before runs of spaces, which is enough."""
        return len(text)

    def words_are_independent(self) -> bool:
        """See `Tokenizer`: no token contains a character followed by a space."""
        pieces = map(self.piece, range(self.vocab_size))
        return not any(SPACE_MARK in piece.lstrip(SPACE_MARK) for piece in pieces)

    def files(self) -> dict[str, bytes]:
        """See `Tokenizer`."""
        return {TOKENIZER_FILE: self._content, **self.settings.files}

    def _special_id(self, name: str, own: int) -> int | None:
        """The token that the settings name; otherwise the one of the model itself."""
        named = self._named_id(name)
        return _known(own) if named is None else named


def open_sentencepiece(path: Path, *, name: str) -> SentencePieceTokenizer:
    """Open a SentencePiece model.

    Args:
        path: path of the file, which exists.
        name: text before the path in messages.

    Raises:
        ValueError: the file is not a SentencePiece model.
    """
    try:
        return SentencePieceTokenizer(path, path.read_bytes(), read_settings(path.parent))
    except RuntimeError:
        kind = describe_invalid_file(path) or (
            f"{_kind_of(path)}; give a SentencePiece {TOKENIZER_FILE} or a tokenizer.json"
        )
        raise ValueError(f"{name}{path} {kind}") from None


def _kind_of(path: Path) -> str:
    """Describe, for messages, a file that is not a SentencePiece model."""
    with path.open("rb") as file:
        begin = file.read(512)
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", begin):
        return "is a tiktoken tokenizer, which is not supported"
    return "is not a SentencePiece model"


def _known(token: int) -> int | None:
    return None if token < 0 else token
