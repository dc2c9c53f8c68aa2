"""The protocol of tokenizers: all that the project needs to know about one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.tokenizers.chat_template import reads_variable, render
from mobilellm.data.tokenizers.settings import TokenizerSettings

SPACE_MARK = "\u2581"
"""The character that SentencePiece, and tokenizers that were converted from it, use for a space."""

Message = Mapping[str, Any]
"""A message of a conversation: `role` (`system`, `user` or `assistant`) and `content`, its text."""


class Tokenizer(ABC):
    """A tokenizer in a file, with the settings that lie beside it; opened by `open_tokenizer`."""

    def __init__(self, path: Path, settings: TokenizerSettings) -> None:
        """Keep the path and the settings; subclasses load the file."""
        self.path = path
        """The file, `tokenizer.model` or `tokenizer.json` in most folders."""
        self.settings = settings
        """The names of special tokens, the begin-of-text rule and the chat template."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Exclusive upper limit of the token ids, added tokens included."""

    @property
    @abstractmethod
    def bos_id(self) -> int | None:
        """The begin-of-text token; None if there is none."""

    @property
    @abstractmethod
    def eos_id(self) -> int | None:
        """The end-of-text token; None if there is none."""

    @property
    @abstractmethod
    def unk_id(self) -> int | None:
        """The token that stands for what cannot be encoded; None if there is none."""

    @property
    def pad_id(self) -> int | None:
        """The token for padding; None if there is none."""
        return self._named_id("pad_token")

    @property
    @abstractmethod
    def adds_bos(self) -> bool | None:
        """Whether the model's own protocol begins each text with `bos_id`; None: not stated."""

    @property
    def adds_eos(self) -> bool | None:
        """Whether the model's own protocol ends each text with `eos_id`; None: not stated."""
        return self.settings.flag("add_eos_token")

    @abstractmethod
    def encode(self, text: str | bytes) -> list[int]:
        """The tokens of a text (of UTF-8, if it is bytes), without begin- and end-of-text tokens.

        Whether the names of special tokens in the text become special tokens is up to the kind of
        tokenizer: in a SentencePiece model they stay text, in a `tokenizer.json` they do not.
        """

    @abstractmethod
    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """The tokens of each text, as `encode` gives them."""

    @abstractmethod
    def encode_rendered(self, text: str) -> list[int]:
        """The tokens of a text in which special tokens are written by their names.

        The output of `apply_chat_template` is such a text; begin-of-text tokens that it needs are
        in it, and are not added.
        """

    @abstractmethod
    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of `encode_rendered`, and the characters that each stands for.

        Returns:
            The tokens, and for each the offsets in `text` of its first character and of the one
            after its last. Tokens of parts of a character stand for all of it, and a token that was
            added, such as a space before the text, for none.
        """

    @property
    @abstractmethod
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text, such as begin and end of a text or of a message."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special tokens are left out."""

    @abstractmethod
    def piece(self, token: int) -> str:
        """The name of a token, as the file of the tokenizer has it."""

    @abstractmethod
    def find(self, piece: str) -> int | None:
        """The token of this name; None if there is none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of what determines the tokens of a text.

        It is equal for files that differ only in how they were made or written.
        """

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of UTF-8 text that each token stands for, `vocab_size` entries.

        They are empty for special tokens. A token may be a part of a character.

        Raises:
            ValueError: the kind of tokenizer does not define which bytes a token stands for.
        """
        return self._find_bytes()

    @abstractmethod
    def _find_bytes(self) -> list[bytes]:
        """See `token_bytes`."""

    @cached_property
    def _byte_counts(self) -> NDArray[np.int32]:
        return np.array([len(text) for text in self.token_bytes], dtype=np.int32)

    def byte_counts(self, num_ids: int | None = None) -> NDArray[np.int32]:
        """Bytes of UTF-8 text that each token stands for, (num_ids,); 0 for special tokens.

        Args:
            num_ids: number of entries; entries beyond the tokenizer's tokens are 0. Default:
                `vocab_size`.

        Raises:
            ValueError: the kind of tokenizer does not define how many bytes a token stands for.
        """
        counts = np.zeros(self.vocab_size if num_ids is None else num_ids, dtype=np.int32)
        known = self._byte_counts[: len(counts)]
        counts[: len(known)] = known
        return counts

    def bytes_of(self, token: int) -> int:
        """Bytes of UTF-8 text that a token stands for; 0 for special tokens."""
        return int(self._byte_counts[token])

    @property
    @abstractmethod
    def adds_space(self) -> bool:
        """Whether a space is put before each text."""

    @abstractmethod
    def words(self, text: bytes) -> list[bytes]:
        """Cut a text at places that no token crosses, if `words_are_independent`.

        Joined, the parts are the text. All but the first begin with a space.
        """

    @abstractmethod
    def last_word_end(self, text: bytes) -> int:
        """The last place at which a part of a document may end, so that its tokens do not change.

        Args:
            text: a part of a document that goes on after it.

        Returns:
            An offset in bytes; 0 if there is no such place.
        """

    @abstractmethod
    def words_are_independent(self) -> bool:
        """Whether no token contains the end of one of `words` and the begin of the next."""

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        keep_marks: bool = False,
    ) -> str:
        """Write a conversation as the text that the model was trained on.

        Args:
            messages: the conversation.
            add_generation_prompt: whether to begin the assistant's next message.
            tools: functions that the model may call, in OpenAI's layout, for templates that write
                them (`writes_tools`).
            keep_marks: see `render`.

        Returns:
            Text for `encode_rendered`, with the special tokens by their names.

        Raises:
            ValueError: the tokenizer has no chat template, or the template refuses the messages.
        """
        return render(
            self.settings.required_template(self.path),
            messages,
            add_generation_prompt=add_generation_prompt,
            special_tokens={**self.settings.special_tokens, **self._named_ends()},
            origin=self.path.parent,
            tools=tools,
            keep_marks=keep_marks,
        )

    @property
    def writes_tools(self) -> bool:
        """Whether there is a chat template, and it writes the functions that are given to it."""
        template = self.settings.template
        return template is not None and reads_variable(template, "tools")

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The contents of the files of a folder from which this tokenizer can be opened, by name.

        The first of them is the tokenizer itself; the others are its settings.
        """

    def _named_ends(self) -> dict[str, str]:
        """The names of the begin- and end-of-text tokens, as chat templates call them."""
        ends = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        return {name: self.piece(token) for name, token in ends.items() if token is not None}

    def _named_id(self, name: str) -> int | None:
        """The token that the settings name, such as `eos_token`; None if they name none."""
        piece = self.settings.special_tokens.get(name)
        return None if piece is None else self.find(piece)
