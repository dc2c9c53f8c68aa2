"""Create the contents of a data folder of prompted sequences: tokenizer, shards, choices, counts.

Prompt and target are tokenized separately, so that a prompt has the same tokens with and without
its target. All rows are kept in memory, because datasets of rationales are small.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.manifest import Record
from mobilellm.data.preparation.baselines import measure_baselines
from mobilellm.data.preparation.building import (
    count_bytes,
    count_tokens,
    count_unknown_tokens,
)
from mobilellm.data.preparation.held_out import is_held_out, last_share_of
from mobilellm.data.preparation.making_tokenizer import make_tokenizer
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.preparation.splitting import check_splits, held_out_rule
from mobilellm.data.prepared_prompts import CHOICES
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.shard_writer import ShardWriter
from mobilellm.data.shards import TokenStream, token_dtype
from mobilellm.data.source import SPLITS, Split
from mobilellm.data.sources.rationale_data import RationaleConfig
from mobilellm.data.sources.rationales import Example
from mobilellm.data.tokenizers import SPACE_MARK, Tokenizer
from mobilellm.data.tokenizers.even_sample import EvenSample
from mobilellm.files import write_bytes_atomically

logger = logging.getLogger(__name__)

_TEXTS_PER_CALL = 4096


def build_prompted(
    data: ResolvedData, config: RationaleConfig, bar: ProgressBar, *, shard_tokens: int
) -> Record:
    """Write tokenizer, shards and answer choices into the data folder.

    Args:
        data: the data to prepare; its folder exists.
        config: `data.config`, with its more specific type.
        bar: progress bar for the phases.
        shard_tokens: tokens in every shard of a split except the last.

    Returns:
        The entries of the manifest, as plain data.

    Raises:
        ValueError: a row is invalid, a split has no rows, or the tokenizer does not fit.
    """
    with bar.phase("reading", counts_bytes=False):
        examples, rule = read_splits(data, config)
        texts: dict[Split, list[str]] = {
            split: [text for example in examples[split] for text in config.texts(example)]
            for split in SPLITS
        }
    sample = _sample(config, texts["train"]) if config.tokenizer is None else None
    tokenizer = cast("Tokenizer", make_tokenizer(data, sample, bar))
    eos = data.eos_token_id
    started = time.perf_counter()
    with bar.phase("tokenizing", counts_bytes=False):
        writers: dict[Split, ShardWriter] = {
            split: _write(data, tokenizer, split, texts[split], shard_tokens) for split in SPLITS
        }
        hashes = {split: writer.finish() for split, writer in writers.items()}
        _write_choices(data, tokenizer, examples["validation"])
    seconds = time.perf_counter() - started
    streams: dict[Split, TokenStream] = {
        split: TokenStream(
            data.folder / split, writer.num_tokens, writer.dtype, shard_tokens=shard_tokens
        )
        for split, writer in writers.items()
    }
    return {
        "vocab_size": data.vocab_size,
        "eos_token_id": eos,
        **({} if data.bos_token_id is None else {"bos_token_id": data.bos_token_id}),
        "shard_tokens": shard_tokens,
        "held_out": rule,
        "tasks": list(config.prompts),
        "hashes": {"data": _hash(texts), **hashes, "tokenizer": tokenizer.fingerprint()},
        "tokenizer_sample_bytes": sample.num_bytes if sample else None,
        "tokenizer_sampled_from_bytes": _num_bytes(texts["train"]) if sample else None,
        "tokenizing_seconds": round(seconds, 3),
        **_counts(data, config, tokenizer, texts, streams),
    }


def _counts(
    data: ResolvedData,
    config: RationaleConfig,
    tokenizer: Tokenizer,
    texts: Mapping[Split, Sequence[str]],
    streams: Mapping[Split, TokenStream],
) -> Record:
    """Sizes and baselines; like validation, the baselines count labels only."""
    counts: dict[Split, NDArray[np.int64]] = {
        split: count_tokens(stream, data.vocab_size) for split, stream in streams.items()
    }
    num_tasks = len(config.prompts)
    train, validation = (_label_tokens(streams[split], num_tasks) for split in SPLITS)
    return {
        "splits": {
            split: {
                "documents": len(texts[split]) // (2 * num_tasks),
                "text_bytes": _num_bytes(texts[split]),
                "tokens": len(streams[split]),
                "token_bytes": count_bytes(tokenizer, counts[split]),
            }
            for split in SPLITS
        },
        "space_marks": sum(text.count(SPACE_MARK) for split in SPLITS for text in texts[split]),
        "unknown_tokens": count_unknown_tokens(tokenizer, counts),
        "baselines": asdict(measure_baselines(train, validation, data.vocab_size)),
    }


def read_splits(
    data: ResolvedData, config: RationaleConfig
) -> tuple[dict[Split, list[Example]], str | None]:
    """The rows of both splits, and the rule for the held-out rows (see `held_out_rule`).

    All rows with the same input are in the same split, which a hash of the input decides. If one of
    the splits would have no rows, the last inputs are held out instead.

    Raises:
        ValueError: a row is invalid, or a split has no rows.
    """
    rows = list(config.examples("train"))
    inputs = [row.input for row in rows]
    held_out = {text for text in inputs if is_held_out(text.encode(), config.held_out_share)}
    is_last_share = not config.has_validation and len(held_out) in (0, len(set(inputs)))
    if is_last_share:
        held_out = last_share_of(inputs, config.held_out_share)
    examples: dict[Split, list[Example]] = {
        "train": [row for row in rows if row.input not in held_out],
        "validation": [row for row in rows if row.input in held_out],
    }
    if config.has_validation:
        examples["validation"] = list(config.examples("validation"))
    check_splits(data, Counter({split: len(rows) for split, rows in examples.items()}))
    if is_last_share:
        logger.info(
            "%s: a share of %g of %d inputs is less than one, so the last of them (%d) are held "
            "out for validation",
            data.name, config.held_out_share, len(set(inputs)), len(held_out),
        )  # fmt: skip
    return examples, held_out_rule(config, is_last_share=is_last_share)


def _sample(config: RationaleConfig, texts: Sequence[str]) -> EvenSample:
    sample = EvenSample(int(config.tokenizer_sample_megabytes * 1e6))
    for text in texts:
        sample.add(text.encode())
    return sample


def _write(
    data: ResolvedData,
    tokenizer: Tokenizer,
    split: Split,
    texts: Sequence[str],
    shard_tokens: int,
) -> ShardWriter:
    """Write each prompt and each target as a document, except those that are in shards already."""
    eos = data.eos_token_id
    begin = [] if data.bos_token_id is None else [data.bos_token_id]
    writer = ShardWriter(
        data.folder / split, token_dtype(data.vocab_size), shard_tokens=shard_tokens
    )
    for first in range(writer.documents_done, len(texts), _TEXTS_PER_CALL):
        block = list(texts[first : first + _TEXTS_PER_CALL])
        for number, ids in enumerate(tokenizer.encode_batch(block), start=first):
            is_target = number % 2 == 1
            tokens = np.array([*ids, eos] if is_target else [*begin, *ids], dtype=writer.dtype)
            writer.append(tokens, [len(tokens)])
    return writer


def _write_choices(
    data: ResolvedData,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
) -> None:
    """Write the tokens of the answer choices of each row, tokenized like labels."""
    eos = data.eos_token_id
    choices = [
        [[*ids, eos] for ids in tokenizer.encode_batch(example.choices)] for example in examples
    ]
    write_bytes_atomically(data.folder / CHOICES, [json.dumps(choices, allow_nan=False).encode()])


def _num_bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _label_tokens(stream: TokenStream, num_tasks: int) -> NDArray[Any]:
    """The tokens of all labels of a split, concatenated, (tokens,)."""
    starts = np.append(stream.document_starts().astype(np.int64), len(stream))
    targets = zip(starts[1 :: 2 * num_tasks], starts[2 :: 2 * num_tasks], strict=True)
    return np.concatenate([stream[start:end] for start, end in targets])


def _hash(texts: Mapping[Split, Sequence[str]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for split, parts in texts.items():
        for text in parts:
            digest.update(f"{text}\0end of a {split} text\0".encode())
    return digest.hexdigest()
