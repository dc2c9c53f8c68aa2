"""What a run prints of its settings before it begins: everything that was asked for."""

import textwrap
from collections.abc import Sequence

WIDTH = 80


def settings_lines(overrides: Sequence[str]) -> list[str]:
    """The settings that differ from conf/train.yaml, at most 80 columns wide where they fit.

    All others are those of the files named in the overrides, and all of them are in config.yaml;
    no lines without overrides.

    Args:
        overrides: as typed, those of a swept experiment included.
    """
    return textwrap.wrap(
        f"settings: {' '.join(overrides)}" if overrides else "",
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
