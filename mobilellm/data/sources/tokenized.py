"""Corpora of token ids, in the format of Meta's MobileLLM code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Split
from mobilellm.data.sources.jsonl import JsonlRows, read_column


@dataclass(frozen=True, kw_only=True)
class TokenizedJsonlFiles(JsonlRows):
    """Files of JSON lines such as `{"token_ids": [5, 17, …]}`.

    Source: facebookresearch/MobileLLM, README, "Data Preprocessing".
    """

    column: str = "token_ids"
    """The key of the token ids."""
    eos_token_id: int = 2
    """The id that ends a document."""

    @property
    def is_tokenized(self) -> bool:
        """True: no tokenizer is applied."""
        return True

    @property
    def end_of_text_id(self) -> int:
        """`eos_token_id`."""
        return self.eos_token_id

    def identity(self) -> Mapping[str, Any]:
        """The format, the column and the id that ends documents."""
        return {
            "format": "tokenized_jsonl",
            "column": self.column,
            "eos_token_id": self.eos_token_id,
        }

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All rows, file by file.

        Raises:
            ValueError: a row is not a list of nonnegative integers; the message names the line.
        """
        for ids, place in read_column(self.files(split), self.column):
            tokens = _token_ids(ids, self.column, place)
            if len(tokens):
                yield Chunk(tokens, True)


@dataclass(frozen=True, kw_only=True)
class TokenizedData(TokenizedJsonlFiles, DataConfig):
    """Training data from token ids: `data=tokenized_jsonl`."""


def _token_ids(ids: Any, column: str, place: str) -> NDArray[Any]:
    """The ids of a row, (tokens,)."""
    try:
        tokens = np.asarray(ids, dtype=None if ids else np.int64)
    except (TypeError, ValueError, OverflowError):
        tokens = np.empty(0)
    if tokens.dtype != np.int64 or tokens.ndim != 1 or (tokens < 0).any():
        raise ValueError(
            f"{place} must hold a list of token ids in column {column!r}, nonnegative "
            "integers; correct or remove the line"
        )
    return tokens
