"""Preferences in rows of a dataset, and the settings of training on them."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilellm.data.conversations.preferences import read_preference
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.source import Split
from mobilellm.data.sources.conversations import (
    BY_CONVERSATION,
    ConversationConfig,
    ConversationFiles,
    HubConversationRows,
    TooLong,
)

logger = logging.getLogger(__name__)

# Options of conversations that preferences do not have, with their only values.
_FIXED = {"layout": "auto", "too_long": "leave_out", "hold_out": BY_CONVERSATION}


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(ConversationConfig):
    """Settings for converting preferences to trained tokens.

    A pair of answers is always in one window, and is left out if it is longer than a window.

    Raises:
        ValueError: see `ConversationConfig`; or an option is given that pairs do not have.
    """

    too_long: TooLong = "leave_out"
    """Pairs are never shortened."""

    def __post_init__(self) -> None:
        """Check the options."""
        for name, value in _FIXED.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"data.{name}={getattr(self, name)} has no effect on preferences; leave it out"
                )
        super().__post_init__()

    @property
    def is_paired(self) -> bool:
        """True: each row has two conversations, with the better answer first."""
        return True

    def conversations(self, split: Split) -> Iterator[Conversation]:
        """Two conversations of each row, with the better answer first; equal answers are left out.

        Raises:
            ValueError: a row is not a preference; the message names the location.
        """
        undecided, count = 0, 0
        for row, place in self.rows(split):
            preference = read_preference(row, place)
            count += 1
            if preference.is_undecided:
                undecided += 1
                continue
            yield preference.chosen
            yield preference.rejected
        if undecided:
            logger.warning(
                "%d of %d rows have the same answer in chosen and rejected, and are left out",
                undecided, count,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PreferenceData(ConversationFiles, PreferenceConfig):
    """Preferences in local files: `data=preferences`."""

    def identity(self) -> Mapping[str, Any]:
        """The format and the settings of the tokens."""
        return {"format": "preferences", **self.layout_options}


@dataclass(frozen=True, kw_only=True)
class HubPreferenceData(HubConversationRows, PreferenceConfig):
    """Preferences in a hub dataset, or in a local folder like one: `data=preferences_hub`."""

    def identity(self) -> Mapping[str, Any]:
        """The settings that identify the rows, and those of the tokens."""
        return {**super().identity(), "format": "preferences", **self.layout_options}
