"""Conversations in rows of a dataset, and the settings of training on them."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilellm.data.config import DataConfig
from mobilellm.data.conversations.chat_format import ChatFormat, ToolFormat
from mobilellm.data.conversations.layouts import Layout, read_conversation
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.source import Chunk, Source, Split
from mobilellm.data.sources.hub import HubRows
from mobilellm.data.sources.jsonl import JSON_LINES, read_rows
from mobilellm.data.sources.local_files import LocalFiles
from mobilellm.data.sources.parquet import read_parquet_rows
from mobilellm.data.tokenizers import Tokenizer, open_tokenizer

Packing = Literal["packed", "single"]
TooLong = Literal["shorten", "leave_out"]
BY_CONVERSATION, BY_FUNCTION = "conversation", "function"

# Options that have an effect on running text only, with their defaults, and the reason.
_WITHOUT_EFFECT = {
    "add_bos": ((None, False), "the chat template writes begin-of-text tokens"),
    "add_eos": ((None, True), "the chat template writes end-of-text tokens"),
    "max_megabytes": ((None,), "all conversations are read"),
    "workers": ((None,), "conversations are tokenized in one process"),
}


@dataclass(frozen=True, kw_only=True)
class Conversations(Source):
    """Rows with conversations, in one of the layouts of `mobilellm.data.conversations.layouts`."""

    layout: Layout = "auto"
    """The layout of the rows; `auto` recognises it by the columns."""

    @abstractmethod
    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The rows of a split in a fixed order, each with its location for messages."""

    def conversations(self, split: Split) -> Iterator[Conversation]:
        """The conversations of a split.

        Raises:
            ValueError: a row is not a conversation; the message names the location.
        """
        for row, place in self.rows(split):
            yield read_conversation(row, self.layout, place)

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """Each conversation as a document of plain text, one turn a line."""
        for conversation in self.conversations(split):
            text = "\n".join(f"{turn.role}: {turn.text}" for turn in conversation.turns)
            yield Chunk(text.encode(), True)


@dataclass(frozen=True, kw_only=True)
class ConversationConfig(Conversations, DataConfig):
    """Settings for converting conversations to trained tokens.

    Raises:
        ValueError: there is no tokenizer, an option is out of range, or an option has no effect.
    """

    parser_role: str = "assistant"
    """Role under which the chat template writes function calls."""
    tool_role: str = "tool"
    """Role under which the chat template writes the results of functions."""
    tools: ToolFormat = "auto"
    """How functions and calls are written, see `ChatFormat`."""
    packing: Packing = "packed"
    """`packed`: several whole conversations share a window, and do not attend to each other;
    `single`: one conversation per window."""
    too_long: TooLong = "shorten"
    """What is done with a conversation that is longer than a window: `shorten` keeps the turns that
    fit, `leave_out` keeps nothing of it."""
    hold_out: str | Sequence[str] = BY_CONVERSATION
    """What `held_out` is a share of: `conversation`, or `function`: all conversations with a
    held-out function are validation data. Or the names of the held-out functions."""

    def __post_init__(self) -> None:
        """Check the options."""
        self.check_values()
        if not isinstance(self.hold_out, str):
            object.__setattr__(self, "hold_out", tuple(self.hold_out))
        self._check_effects()
        if self.tokenizer is None:
            raise ValueError(
                "data=conversations needs the tokenizer of the model that is trained; use "
                "init_from=MODEL_DIR, or data.tokenizer=PATH"
            )
        if self.document_mask and not self.shares_windows:
            raise ValueError(
                "data.document_mask=true has no effect with data.packing=single, whose windows "
                "have one conversation each; leave it out"
            )
        # As for all data, the memory forecast then knows that windows have several documents.
        object.__setattr__(self, "document_mask", self.shares_windows)
        object.__setattr__(self, "add_bos", False)
        super().__post_init__()

    def _check_effects(self) -> None:
        for name, (defaults, reason) in _WITHOUT_EFFECT.items():
            if getattr(self, name) not in defaults:
                raise ValueError(
                    f"data.{name}={getattr(self, name)} has no effect on conversations: {reason}; "
                    "leave it out"
                )
        given = self.hold_out
        if isinstance(given, str) and given not in (BY_CONVERSATION, BY_FUNCTION):
            raise ValueError(
                f"data.hold_out={given} must be {BY_CONVERSATION}, {BY_FUNCTION}, or a list of "
                f"names of functions, such as [{given}]"
            )
        if given != BY_CONVERSATION and self.has_validation:
            raise ValueError(
                "data.hold_out and a validation split are both given; leave out one of them"
            )
        if not isinstance(given, str) and (not given or self.held_out is not None):
            raise ValueError(
                f"data.hold_out={list(given)} must name at least one function, without "
                "data.held_out, which is a share; leave one of them out"
            )

    @property
    def is_paired(self) -> bool:
        """Whether each row has two conversations, a better and a worse answer to one prompt."""
        return False

    @property
    def shares_windows(self) -> bool:
        """Whether a window may have several conversations."""
        return self.packing == "packed" or self.is_paired

    @property
    def always_ends(self) -> bool:
        """True: a turn without an end would never end when it is generated."""
        return True

    @property
    def layout_options(self) -> dict[str, Any]:
        """The settings that determine the tokens of a row, as plain data.

        Raises:
            FileNotFoundError, ValueError: the tokenizer cannot be read, or has no chat template.
        """
        tokenizer = open_tokenizer(Path(self.tokenizer or ""))
        template = tokenizer.settings.required_template(tokenizer.path)
        options: dict[str, Any] = {
            name: getattr(self, name) for name in ("layout", "parser_role", "tool_role", "tools")
        }
        hold_out = self.hold_out if isinstance(self.hold_out, str) else list(self.hold_out)
        digest = hashlib.blake2b(template.encode(), digest_size=8).hexdigest()
        return options | {"hold_out": hold_out, "chat_template": digest}

    def chat_format(self, tokenizer: Tokenizer) -> ChatFormat:
        """The protocol between the conversations and the template of a tokenizer.

        Raises:
            ValueError: see `ChatFormat`.
        """
        return ChatFormat(
            tokenizer=tokenizer, parser_role=self.parser_role, tool_role=self.tool_role,
            tools=self.tools,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConversationFiles(LocalFiles):
    """Files of JSON lines or Parquet; a folder may have both."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that are read from a folder."""
        return (*JSON_LINES, ".parquet")

    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The rows, file by file."""
        for file in self.files(split):
            yield from read_parquet_rows(file) if file.suffix == ".parquet" else read_rows([file])


@dataclass(frozen=True, kw_only=True)
class ConversationData(ConversationFiles, ConversationConfig):
    """Conversations in local files: `data=conversations`."""

    def identity(self) -> Mapping[str, Any]:
        """The format and the settings of the tokens."""
        return {"format": "conversations", **self.layout_options}


@dataclass(frozen=True, kw_only=True)
class HubConversationRows(HubRows):
    """Rows of a hub dataset with their numbers."""

    def rows(self, split: Split) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The rows in the dataset's order."""
        name = self.train_split if split == "train" else self.validation_split
        for number, row in enumerate(self.dataset(split)):
            yield row, f"row {number} of {self.dataset_name} {name}"


@dataclass(frozen=True, kw_only=True)
class HubConversationData(HubConversationRows, ConversationConfig):
    """Conversations in a hub dataset, or in a local folder like one: `data=conversations_hub`."""

    def identity(self) -> Mapping[str, Any]:
        """The settings that identify the rows, and those of the tokens."""
        return {**super().identity(), **self.layout_options}
