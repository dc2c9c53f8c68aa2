"""Prepared preferences: pairs of conversations with a better and a worse answer."""

from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.data.prepared_conversations import PreparedConversations
from mobilellm.data.source import Split
from mobilellm.data.sources.conversations import Packing

if TYPE_CHECKING:
    from mobilellm.data.conversation_windows import Kept, PairWindows


class PreparedPreferences(PreparedConversations):
    """A data folder of preferences.

    Args:
        folder: a folder in which `prepare_data` has finished.
        packing: whether a window has several pairs or one.
    """

    def __init__(self, folder: Path, packing: Packing = "packed") -> None:
        """Read the manifest."""
        super().__init__(folder, packing, "leave_out")

    def _describe(self, kept: "Kept") -> str:
        return f"{kept.dropped} of {kept.count} pairs are too long and left out"

    def _windows(self, split: Split, sequence_length: int) -> "tuple[PairWindows, Kept]":
        from mobilellm.data.conversation_windows import PairWindows, keep_whole_pairs

        tokens, trained = self.tokens(split), self.trained(split)
        kept = keep_whole_pairs(
            trained.document_starts(), tokens.document_starts(), len(tokens), sequence_length
        )
        if not len(kept.bounds):
            raise ValueError(
                f"sequence_length={sequence_length} is too short for any of the {kept.count} "
                "pairs, both answers with their prompts; use at least "
                f"{kept.needed}"
            )
        windows = PairWindows(
            tokens, trained, kept.bounds, sequence_length,
            packing=self.packing, padding=self.eos_token_id,
        )  # fmt: skip
        return windows, kept
