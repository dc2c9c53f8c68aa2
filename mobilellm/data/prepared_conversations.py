"""Prepared conversations: their tokens, and which of them are trained.

The documents of a split's stream are trained turns, each with all that stands between it and the
one before. A second stream of equal length has 1 for each token that is trained and 0 for the
others; its documents are the conversations. Of preferences, every second conversation has the
worse answer to the prompt of the one before it, and its trained tokens have 2.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilellm.data.prepared import PreparedData
from mobilellm.data.shards import TokenStream
from mobilellm.data.source import Split
from mobilellm.data.sources.conversations import Packing, TooLong

if TYPE_CHECKING:
    from mobilellm.data.conversation_windows import ConversationWindows, Kept

logger = logging.getLogger(__name__)

VALIDATION_ROWS = "validation.jsonl"
"""File with the validation conversations, in the layout `messages`."""
TRAINED_FUNCTIONS = "functions.json"
"""File with the names of the functions in the training conversations, a list."""


def trained_folder(folder: Path, split: Split) -> Path:
    """The folder of the shards that say which tokens of a split are trained."""
    return folder / f"{split}_trained"


class PreparedConversations(PreparedData):
    """A data folder of conversations.

    Args:
        folder: a folder in which `prepare_data` has finished.
        packing: how conversations are put into windows.
        too_long: what is done with conversations that are longer than a window.
    """

    def __init__(
        self, folder: Path, packing: Packing = "packed", too_long: TooLong = "shorten"
    ) -> None:
        """Read the manifest."""
        super().__init__(folder)
        self.packing: Packing = packing
        self.too_long: TooLong = too_long
        self._told: set[tuple[Split, int]] = set()

    def trained(self, split: Split) -> TokenStream:
        """Whether each token of "train" or "validation" is trained: a stream of 0, 1 and 2."""
        return TokenStream(
            trained_folder(self.dir, split),
            self.manifest["splits"][split]["tokens"],
            np.uint8,
            shard_tokens=self.manifest["shard_tokens"],
        )

    def windows(
        self, split: Split, sequence_length: int, *, document_mask: bool = False
    ) -> "ConversationWindows":
        """Whole conversations in windows.

        Those that are too long keep the turns that fit, or are left out, see `too_long`. What is
        left out is logged, once for each split and length. Attention is limited to one
        conversation, whatever `document_mask` says.

        Raises:
            ValueError: no conversation fits, not even with its first trained turn.
        """
        windows, kept = self._windows(split, sequence_length)
        if kept.lost_turns and (split, sequence_length) not in self._told:
            self._told.add((split, sequence_length))
            sizes = self.manifest["splits"][split]
            logger.warning(
                "the %s split: with sequence_length=%d, %s, together %d of %d trained turns",
                split, sequence_length, self._describe(kept), kept.lost_turns, sizes["turns"],
            )  # fmt: skip
        return windows

    def _describe(self, kept: "Kept") -> str:
        return (
            f"{kept.shortened} of {kept.count} conversations lose their last turns and "
            f"{kept.dropped} are left out"
        )

    def tokens_per_epoch(self, sequence_length: int) -> int:
        """See `PreparedData.tokens_per_epoch`; logs nothing."""
        return len(self._windows("train", sequence_length)[0]) * sequence_length

    def _windows(self, split: Split, sequence_length: int) -> "tuple[ConversationWindows, Kept]":
        from mobilellm.data.conversation_windows import ConversationWindows, keep_whole_turns

        tokens, trained = self.tokens(split), self.trained(split)
        conversations = trained.document_starts()
        kept = keep_whole_turns(
            conversations, tokens.document_starts(), len(tokens), sequence_length,
            shortens=self.too_long == "shorten",
        )  # fmt: skip
        if not len(kept.bounds):
            part = "the first turns of each" if self.too_long == "shorten" else "any"
            raise ValueError(
                f"sequence_length={sequence_length} is too short for {part} of the "
                f"{len(conversations)} conversations; use at least {kept.needed}"
            )
        windows = ConversationWindows(
            tokens, trained, kept.bounds, sequence_length,
            packing=self.packing, padding=self.eos_token_id,
        )  # fmt: skip
        return windows, kept
