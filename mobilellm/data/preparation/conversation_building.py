"""Create the contents of a data folder of conversations: tokenizer, shards, rows and counts.

All conversations are kept in memory, because datasets for fine-tuning are small.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.conversations.tokens import ConversationTokens, tokenize_conversation
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.manifest import Record
from mobilellm.data.preparation.baselines import measure_baselines
from mobilellm.data.preparation.building import (
    count_bytes,
    count_tokens,
    count_unknown_tokens,
)
from mobilellm.data.preparation.conversation_splits import Splits, read_conversation_splits
from mobilellm.data.preparation.making_tokenizer import make_tokenizer
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.prepared_conversations import (
    TRAINED_FUNCTIONS,
    VALIDATION_ROWS,
    trained_folder,
)
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.shard_writer import ShardWriter
from mobilellm.data.shards import TokenStream, token_dtype
from mobilellm.data.source import SPLITS, Split
from mobilellm.data.sources.conversations import ConversationConfig
from mobilellm.data.tokenizers import Tokenizer
from mobilellm.files import write_bytes_atomically
from mobilellm.labels import MARK_REJECTED, MARK_TRAINED
from mobilellm.strict_json import to_json

logger = logging.getLogger(__name__)


def build_conversations(
    data: ResolvedData, config: ConversationConfig, bar: ProgressBar, *, shard_tokens: int
) -> Record:
    """Write tokenizer, shards, validation rows and the names of functions into the data folder.

    Args:
        data: the data to prepare; its folder exists.
        config: `data.config`, with its more specific type.
        bar: progress bar for the phases.
        shard_tokens: tokens in every shard of a split except the last.

    Returns:
        The entries of the manifest, as plain data.

    Raises:
        ValueError: a row is not a conversation, a split has no trained token, or the chat template
            does not fit.
    """
    with bar.phase("reading", counts_bytes=False):
        conversations, rule = read_conversation_splits(data, config)
    tokenizer = cast("Tokenizer", make_tokenizer(data, None, bar))
    form = config.chat_format(tokenizer)
    started = time.perf_counter()
    splits: dict[Split, Record] = {}
    hashes: dict[str, str] = {}
    streams: dict[Split, tuple[TokenStream, TokenStream]] = {}
    with bar.phase("tokenizing", counts_bytes=False):
        for split in SPLITS:
            found = [tokenize_conversation(one, form) for one in conversations[split]]
            if config.is_paired:
                _check_pairs(found, conversations[split])
            sequences = [sequence for of_row in found for sequence in of_row]
            untrained = sum(not of_row for of_row in found)
            _check_trained(data, split, len(found), untrained)
            marks = _marks(sequences, is_paired=config.is_paired)
            hashes[split] = _write(data, split, sequences, marks, shard_tokens)
            splits[split] = _sizes(len(found) - untrained, untrained, sequences)
            streams[split] = _streams(data, split, sequences, shard_tokens)
    seconds = time.perf_counter() - started
    _write_rows(data, conversations, is_paired=config.is_paired)
    return {
        "vocab_size": data.vocab_size,
        "eos_token_id": data.eos_token_id,
        "shard_tokens": shard_tokens,
        "held_out": rule,
        "hashes": {"data": _hash(conversations), **hashes, "tokenizer": tokenizer.fingerprint()},
        "tokenizer_sample_bytes": None,
        "tokenizer_sampled_from_bytes": None,
        "tokenizing_seconds": round(seconds, 3),
        "space_marks": 0,
        **_counts(data, tokenizer, splits, streams),
    }


def _check_trained(data: ResolvedData, split: Split, rows: int, untrained: int) -> None:
    """Report conversations without a turn to train.

    Raises:
        ValueError: there are no others.
    """
    if not untrained:
        return
    if untrained == rows:
        raise ValueError(
            f"none of the {rows} conversations in the {split} split of {data.name} has a turn of "
            "the assistant or of a parser, so that there is nothing to train; check the roles"
        )
    logger.warning(
        "the %s split: %d of %d conversations have no turn of the assistant or of a parser, and "
        "are left out", split, untrained, rows,
    )  # fmt: skip


def _check_pairs(
    found: Sequence[Sequence[ConversationTokens]], conversations: Sequence[Conversation]
) -> None:
    """Check that each answer is one sequence.

    Raises:
        ValueError: it is several, because its turns cannot be written together.
    """
    for of_row, conversation in zip(found, conversations, strict=True):
        if len(of_row) != 1:
            raise ValueError(
                f"{conversation.place} has an answer of several turns, which the chat template "
                "writes differently once others follow; shorten the answers to one turn, or use "
                "another template"
            )


def _marks(
    sequences: Sequence[ConversationTokens], *, is_paired: bool
) -> Iterator[NDArray[np.uint8]]:
    """What the second stream has for each token of each sequence."""
    for number, one in enumerate(sequences):
        mark = MARK_REJECTED if is_paired and number % 2 else MARK_TRAINED
        yield one.is_trained.astype(np.uint8) * np.uint8(mark)


def _write(
    data: ResolvedData,
    split: Split,
    sequences: Sequence[ConversationTokens],
    marks: Iterable[NDArray[np.uint8]],
    shard_tokens: int,
) -> str:
    """Write the shards of the tokens and of what is trained; their common hash."""
    dtype = token_dtype(data.vocab_size)
    tokens = ShardWriter(data.folder / split, dtype, shard_tokens=shard_tokens)
    trained = ShardWriter(trained_folder(data.folder, split), np.uint8, shard_tokens=shard_tokens)
    turns = (
        one.tokens[begin:end]
        for one in sequences
        for begin, end in zip((0, *one.ends), one.ends, strict=False)
    )
    _append(tokens, turns)
    _append(trained, marks)
    both = tokens.finish() + trained.finish()
    return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()


def _append(writer: ShardWriter, documents: Iterable[NDArray[Any]]) -> None:
    """Write all documents except those that are in shards already."""
    done = writer.documents_done
    for number, document in enumerate(documents):
        if number >= done:
            writer.append(document.astype(writer.dtype), [len(document)])


def _streams(
    data: ResolvedData, split: Split, sequences: Sequence[ConversationTokens], shard_tokens: int
) -> tuple[TokenStream, TokenStream]:
    total = sum(len(one.tokens) for one in sequences)
    dtype = token_dtype(data.vocab_size)
    return (
        TokenStream(data.folder / split, total, dtype, shard_tokens=shard_tokens),
        TokenStream(trained_folder(data.folder, split), total, np.uint8, shard_tokens=shard_tokens),
    )


def _sizes(rows: int, untrained: int, sequences: Sequence[ConversationTokens]) -> Record:
    return {
        "documents": rows,
        "sequences": len(sequences),
        "untrained_documents": untrained,
        "turns": sum(len(one.ends) for one in sequences),
        "tokens": sum(len(one.tokens) for one in sequences),
        "trained_tokens": sum(int(one.is_trained.sum()) for one in sequences),
    }


def _counts(
    data: ResolvedData,
    tokenizer: Tokenizer,
    splits: dict[Split, Record],
    streams: dict[Split, tuple[TokenStream, TokenStream]],
) -> Record:
    """Bytes of text and baselines; like the labels, the baselines count trained tokens only."""
    counts: dict[Split, NDArray[np.int64]] = {
        split: count_tokens(tokens, data.vocab_size) for split, (tokens, _) in streams.items()
    }
    for split, sizes in splits.items():
        # The names of special tokens in the text are no bytes of the conversations.
        sizes["token_bytes"] = sizes["text_bytes"] = count_bytes(tokenizer, counts[split])
    train, validation = (
        tokens[0 : len(tokens)][trained[0 : len(trained)] == MARK_TRAINED]
        for tokens, trained in (streams[split] for split in SPLITS)
    )
    return {
        "splits": splits,
        "unknown_tokens": count_unknown_tokens(tokenizer, counts),
        "baselines": asdict(measure_baselines(train, validation, data.vocab_size)),
    }


def _write_rows(data: ResolvedData, conversations: Splits, *, is_paired: bool) -> None:
    """Write what an evaluation of the trained model needs; of pairs, the better answers."""
    rows = (
        to_json(one.record(), indent=None, ensure_ascii=False)
        for one in conversations["validation"][:: 2 if is_paired else 1]
    )
    text = "".join(f"{row}\n" for row in rows)
    write_bytes_atomically(data.folder / VALIDATION_ROWS, [text.encode()])
    names = sorted(frozenset().union(*(one.functions for one in conversations["train"])))
    content = to_json(names, indent=1, ensure_ascii=False) + "\n"
    write_bytes_atomically(data.folder / TRAINED_FUNCTIONS, [content.encode()])


def _hash(conversations: Splits) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for split, rows in conversations.items():
        digest.update(f"{split} {len(rows)}\0".encode())
        for conversation in rows:
            digest.update(conversation.key())
    return digest.hexdigest()
