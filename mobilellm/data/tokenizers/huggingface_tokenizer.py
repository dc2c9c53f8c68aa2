"""Tokenizers in the format of Hugging Face's `tokenizers`, `tokenizer.json`."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.data.tokenizers.byte_level import BYTE_LEVEL_SPACE, bytes_of_pieces
from mobilellm.data.tokenizers.settings import SETTINGS_FILE, TokenizerSettings, read_settings
from mobilellm.data.tokenizers.tokenizer import SPACE_MARK, Tokenizer
from mobilellm.files import TOKENIZER_JSON, describe_invalid_file

if TYPE_CHECKING:
    pass

# Between a letter or digit and a single space before a letter, the regular expressions that split
# text into words always split, and normalisation composes nothing.
_WORD_ENDS = re.compile(rb"(?<=[0-9A-Za-z])(?= [A-Za-z])")
# Parts of the file that do not change the tokens of a text.
_NOT_IN_FINGERPRINT = ("version", "truncation", "padding", "post_processor")


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json, with the settings of `tokenizer_config.json`.

    Args:
        path: the file, for messages and copies.
        content: the bytes of the file.
        settings: of the files beside it.

    Raises:
        ValueError: the content is not a tokenizer.
    """

    def __init__(self, path: Path, content: bytes, settings: TokenizerSettings) -> None:
        """Load the tokenizer."""
        import tokenizers

        super().__init__(path, settings)
        self._content = content
        self._values: dict[str, Any] = json.loads(content)
        try:
            self._own: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the only class that this package raises
            raise ValueError(str(error)) from None
        # A text is always encoded as a whole, as `transformers` does by default.
        self._own.no_truncation()
        self._own.no_padding()

    @cached_property
    def vocab_size(self) -> int:
        """See `Tokenizer`; ids may have gaps."""
        return max(self._own.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def bos_id(self) -> int | None:
        """See `Tokenizer`."""
        return self._special_id("bos_token")

    @cached_property
    def eos_id(self) -> int | None:
        """See `Tokenizer`."""
        return self._special_id("eos_token")

    @cached_property
    def unk_id(self) -> int | None:
        """See `Tokenizer`."""
        named = self._named_id("unk_token")
        if named is not None:
            # A byte-level tokenizer may name its end-of-text token here, and never uses it.
            return named if self._values["model"].get("unk_token") is not None else None
        piece = self._values["model"].get("unk_token")
        return self.find(piece) if isinstance(piece, str) else None

    @cached_property
    def adds_bos(self) -> bool | None:
        """See `Tokenizer`: `add_bos_token`, otherwise what the post-processor does."""
        stated = self.settings.flag("add_bos_token")
        if stated is not None:
            return stated
        begin = self._own.encode("a", add_special_tokens=True).ids[:1]
        return begin == [self.bos_id]

    def encode(self, text: str | bytes) -> list[int]:
        """See `Tokenizer`."""
        text = text.decode() if isinstance(text, bytes) else text
        return self._own.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """See `Tokenizer`."""
        decoded = [text.decode() if isinstance(text, bytes) else text for text in texts]
        encoded = self._own.encode_batch_fast(decoded, add_special_tokens=False)
        return [one.ids for one in encoded]

    def encode_rendered(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self.encode(text)

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """See `Tokenizer`."""
        encoded = self._untrimmed.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    @cached_property
    def _untrimmed(self) -> Any:
        """The tokenizer without its post-processor, which may leave spaces out of the offsets."""
        import tokenizers

        values = {**self._values, "post_processor": None}
        own = tokenizers.Tokenizer.from_str(json.dumps(values, allow_nan=False))
        own.no_truncation()
        own.no_padding()
        return own

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """See `Tokenizer`: the added tokens that are marked as special."""
        added = self._own.get_added_tokens_decoder().items()
        ends = {token for token in (self.bos_id, self.eos_id) if token is not None}
        return frozenset({token for token, one in added if one.special} | ends)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return self._own.decode(list(tokens), skip_special_tokens=True)

    def piece(self, token: int) -> str:
        """See `Tokenizer`."""
        return self._own.id_to_token(token) or ""

    def find(self, piece: str) -> int | None:
        """See `Tokenizer`."""
        return self._own.token_to_id(piece)

    def fingerprint(self) -> str:
        """See `Tokenizer`; a hash of the file without formatting and post-processor."""
        kept = {k: v for k, v in self._values.items() if k not in _NOT_IN_FINGERPRINT}
        text = json.dumps(kept, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _find_bytes(self) -> list[bytes]:
        found = [b""] * self.vocab_size
        try:
            pieces = bytes_of_pieces(self._own.get_vocab(False), self._values)
        except ValueError as error:
            raise ValueError(f"{self.path} {error}") from None
        for token, text in pieces.items():
            found[token] = text
        for token, one in self._own.get_added_tokens_decoder().items():
            found[token] = b"" if one.special else one.content.encode()
        if self.unk_id is not None:
            found[self.unk_id] = b""
        return found

    @cached_property
    def adds_space(self) -> bool:
        """See `Tokenizer`."""
        first = self._own.encode("a", add_special_tokens=False).tokens[:1]
        return bool(first) and first[0].startswith((SPACE_MARK, BYTE_LEVEL_SPACE))

    def words(self, text: bytes) -> list[bytes]:
        """See `Tokenizer`."""
        return _WORD_ENDS.split(text)

    def last_word_end(self, text: bytes) -> int:
        """See `Tokenizer`."""
        end = text.rfind(b" ")
        while end > 0 and not _WORD_ENDS.match(text, end):
            end = text.rfind(b" ", 0, end)
        return max(end, 0)

    def words_are_independent(self) -> bool:
        """See `Tokenizer`."""
        inside = re.compile(f"[0-9A-Za-z][ {SPACE_MARK}{BYTE_LEVEL_SPACE}][A-Za-z]")
        added = self._own.get_added_tokens_decoder().values()
        takes_spaces = any((one.lstrip or one.rstrip) for one in added)
        return not takes_spaces and not any(map(inside.search, self._own.get_vocab(True)))

    def files(self) -> dict[str, bytes]:
        """See `Tokenizer`."""
        files = {TOKENIZER_JSON: self._content, **self.settings.files}
        if SETTINGS_FILE not in files:
            files[SETTINGS_FILE] = self._settings_of_model()
        return files

    def _settings_of_model(self) -> bytes:
        """A tokenizer_config.json with the special tokens that the model's config.json names."""
        ids = (("bos_token", self.bos_id), ("eos_token", self.eos_id))
        values: dict[str, Any] = {name: self.piece(i) for name, i in ids if i is not None}
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
        return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()

    def _special_id(self, name: str) -> int | None:
        """The token that the settings of the tokenizer name; otherwise those of the model."""
        named = self._named_id(name)
        if named is not None:
            return named
        token = self.settings.model_ids.get(f"{name}_id")
        return token if token is not None and token < self.vocab_size else None


def open_huggingface(path: Path, *, name: str) -> HuggingFaceTokenizer:
    """Open a tokenizer.json.

    Args:
        path: path of the file, which exists.
        name: text before the path in messages.

    Raises:
        ValueError: the file is not a tokenizer.
    """
    content, settings = path.read_bytes(), read_settings(path.parent)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = describe_invalid_file(path) or f"is damaged ({error}); fetch it again"
        raise ValueError(f"{name}{path} {reason}") from None
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), Mapping):
        raise ValueError(
            f"{name}{path} is JSON, but not a tokenizer of Hugging Face, which has a field `model`;"
            " give the tokenizer.json"
        )
    try:
        return HuggingFaceTokenizer(path, content, settings)
    except ValueError as error:
        raise ValueError(
            f"{name}{path} cannot be opened ({error}); fetch it again, or update the package "
            "tokenizers"
        ) from None
