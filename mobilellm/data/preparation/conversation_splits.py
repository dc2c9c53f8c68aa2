"""Reads conversations, and chooses those that are held out for validation."""

import logging
from collections import Counter
from collections.abc import Sequence

from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.preparation.held_out import is_held_out, last_share_of
from mobilellm.data.preparation.splitting import check_splits, held_out_rule
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.source import Split
from mobilellm.data.sources.conversations import BY_CONVERSATION, BY_FUNCTION, ConversationConfig

logger = logging.getLogger(__name__)

Splits = dict[Split, list[Conversation]]


def read_conversation_splits(
    data: ResolvedData, config: ConversationConfig
) -> tuple[Splits, str | None]:
    """The conversations of both splits, and the rule for the held-out ones.

    Copies of a conversation are in the same split. If functions are held out, all conversations
    that offer or call one of them are validation data, so that training never shows it; those
    without any function are held out like single conversations, unless the functions are named.

    Raises:
        ValueError: a row is not a conversation, a named function does not occur, or a split has no
            conversations.
    """
    every = list(config.conversations("train"))
    if config.has_validation:
        splits: Splits = {"train": every, "validation": list(config.conversations("validation"))}
        rule = None
    else:
        splits, is_last_share = _split(data, config, every)
        by_name = "functions" if config.hold_out != BY_CONVERSATION else None
        rule = by_name or held_out_rule(config, is_last_share=is_last_share)
    check_splits(data, Counter({split: len(rows) for split, rows in splits.items()}))
    return splits, rule


def _split(
    data: ResolvedData, config: ConversationConfig, every: Sequence[Conversation]
) -> tuple[Splits, bool]:
    share = config.held_out_share
    keys = [conversation.split_key() for conversation in every]
    if config.hold_out == BY_CONVERSATION:
        held_out = {key for key in keys if is_held_out(key, share)}
        is_last_share = len(held_out) in (0, len(set(keys)))
        if is_last_share:
            held_out = last_share_of(keys, share)
            logger.info(
                "%s: a share of %g of %d conversations is less than one, so the last of them (%d) "
                "are held out for validation", data.name, share, len(set(keys)), len(held_out),
            )  # fmt: skip
        return _assigned(every, [key in held_out for key in keys]), is_last_share
    known = frozenset().union(*(conversation.functions for conversation in every))
    if config.hold_out == BY_FUNCTION:
        names = frozenset(name for name in known if is_held_out(name.encode(), share))
        alone = [not one.functions and is_held_out(key, share)
                 for one, key in zip(every, keys, strict=True)]  # fmt: skip
    else:
        names, alone = frozenset(config.hold_out), [False] * len(every)
        missing = sorted(names - known)
        if missing:
            raise ValueError(
                f"data.hold_out names {missing[0]}, which no conversation offers or calls; the "
                f"functions are {', '.join(sorted(known)[:20]) or '(none)'}"
            )
    logger.info(
        "%s: %d of %d functions are held out, with all conversations that offer or call them",
        data.name, len(names), len(known),
    )  # fmt: skip
    is_out = [bool(one.functions & names) or out for one, out in zip(every, alone, strict=True)]
    return _assigned(every, is_out), False


def _assigned(every: Sequence[Conversation], is_out: Sequence[bool]) -> Splits:
    pairs = list(zip(every, is_out, strict=True))
    return {
        "train": [conversation for conversation, out in pairs if not out],
        "validation": [conversation for conversation, out in pairs if out],
    }
