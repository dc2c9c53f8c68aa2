"""Create the contents of a data folder: tokenizer, shards and counts."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.config import DataConfig
from mobilellm.data.manifest import Record
from mobilellm.data.preparation.baselines import measure_baselines
from mobilellm.data.preparation.encoder import Batch, Encoded
from mobilellm.data.preparation.held_out import RoutedChunk, chunk_bytes
from mobilellm.data.preparation.making_tokenizer import make_tokenizer
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.preparation.splitting import Survey, check_splits, routed_chunks, survey
from mobilellm.data.preparation.word_boundaries import cut_at_words
from mobilellm.data.preparation.workers import available_cores, encode_batches
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.shard_writer import ShardWriter
from mobilellm.data.shards import TokenStream, token_dtype
from mobilellm.data.source import SPLITS, Split
from mobilellm.data.tokenizers import SPACE_MARK, Tokenizer

_BATCH_BYTES = 1 << 18
# Starting a process takes about as long as tokenizing this much text.
_BYTES_PER_WORKER = 1 << 22


def build_contents(data: ResolvedData, bar: ProgressBar, *, shard_tokens: int) -> Record:
    """Write tokenizer and shards into the data folder; existing complete files are kept.

    Args:
        data: the data to prepare; its folder exists.
        bar: progress bar for the phases.
        shard_tokens: tokens in every shard of a split except the last.

    Returns:
        The entries of the manifest, as plain data.
    """
    config = data.config
    trains = config.tokenizer is None and not config.is_tokenized
    sample_bytes = int(config.tokenizer_sample_megabytes * 1e6) if trains else None
    with bar.phase("reading", _estimate_size(config)):
        found = survey(data, sample_bytes=sample_bytes, bar=bar)
    tokenizer = make_tokenizer(data, found.sample, bar)
    build = _CorpusBuild(data, tokenizer, found, bar, shard_tokens)
    with bar.phase("tokenizing", found.num_bytes.total() if found.is_complete else None):
        started = time.perf_counter()
        hashes = build.write()
        seconds = time.perf_counter() - started
    streams: dict[Split, TokenStream] = {
        split: TokenStream(
            data.folder / split,
            build.writers[split].num_tokens,
            build.writers[split].dtype,
            shard_tokens=shard_tokens,
        )
        for split in SPLITS
    }
    for split, stream in streams.items():
        if len(stream) < 2:
            raise ValueError(
                f"the {split} split of {data.name} has {len(stream)} tokens, which must be at "
                "least 2; give more text"
            )
    with bar.phase("baselines", counts_bytes=False):
        baselines = measure_baselines(streams["train"], streams["validation"], data.vocab_size)
    counts: dict[Split, NDArray[np.int64]] = {
        split: count_tokens(stream, data.vocab_size) for split, stream in streams.items()
    }
    return {
        "vocab_size": data.vocab_size,
        "eos_token_id": build.eos_token_id,
        **({} if data.bos_token_id is None else {"bos_token_id": data.bos_token_id}),
        "shard_tokens": shard_tokens,
        "held_out": found.held_out_rule(config),
        "splits": {
            split: build.sizes(split)
            | {
                "tokens": len(stream),
                # Equal to text_bytes if the tokenizer is lossless.
                "token_bytes": count_bytes(tokenizer, counts[split]),
            }
            for split, stream in streams.items()
        },
        "hashes": {**hashes, "tokenizer": tokenizer.fingerprint() if tokenizer else None},
        "tokenizer_sample_bytes": found.sample.num_bytes if found.sample else None,
        "tokenizer_sampled_from_bytes": found.num_bytes["train"] if found.sample else None,
        "space_marks": build.space_marks,
        "unknown_tokens": count_unknown_tokens(tokenizer, counts),
        "baselines": asdict(baselines),
        # Time of this process; text that an interrupted process has tokenized is only read again.
        "tokenizing_seconds": round(seconds, 3),
    }


def _estimate_size(config: DataConfig) -> int | None:
    """Estimate the number of bytes of text from the sizes of the files."""
    files = [file for split in SPLITS for file in config.files(split)]
    if not files or not config.is_local:
        return None
    size = sum(file.stat().st_size for file in files)
    return min(size, int(config.max_megabytes * 1e6)) if config.max_megabytes else size


class _CorpusBuild:
    """One pass over the corpus that writes the shards of both splits and counts their text."""

    def __init__(
        self,
        data: ResolvedData,
        tokenizer: Tokenizer | None,
        found: Survey,
        bar: ProgressBar,
        shard_tokens: int,
    ) -> None:
        self._data, self._config = data, data.config
        self._tokenizer = tokenizer
        self._found = found
        self._bar = bar
        dtype = token_dtype(data.vocab_size)
        self.writers: dict[Split, ShardWriter] = {
            split: ShardWriter(data.folder / split, dtype, shard_tokens=shard_tokens)
            for split in SPLITS
        }
        self.eos_token_id = data.eos_token_id
        self._digest = hashlib.blake2b(digest_size=16)
        self._documents: Counter[Split] = Counter()
        self._text_bytes: Counter[Split] = Counter()
        self.space_marks = 0

    def write(self) -> dict[str, str]:
        """Write all shards, and return the hashes of the text and of both streams."""
        encoded = self._given_tokens() if self._config.is_tokenized else self._encode()
        for split, batch in encoded:
            self._estimate_remaining()
            self.writers[split].append(batch.tokens, batch.document_ends)
        check_splits(self._data, self._documents)
        hashes = {split: self.writers[split].finish() for split in SPLITS}
        return {"data": self._digest.hexdigest(), **hashes}

    def sizes(self, split: Split) -> Record:
        """The counts of a whole split, including its shards from before an interruption."""
        return {
            "documents": self._documents[split],
            "text_bytes": None if self._config.is_tokenized else self._text_bytes[split],
        }

    def _routed(self) -> Iterator[RoutedChunk]:
        """Count all chunks, and yield those that are not in a shard yet."""
        for routed in routed_chunks(self._config, self._found.last_share):
            split, chunk, begins = routed
            content = chunk_bytes(chunk)
            self._digest.update(content)
            if chunk.ends_document:
                self._digest.update(f"\0end of a {split} document\0".encode())
            self._documents[split] += begins
            self._text_bytes[split] += len(content)
            self.space_marks += content.count(SPACE_MARK.encode())
            self._bar.advance(len(content))
            if self._documents[split] > self.writers[split].documents_done:
                yield routed

    def _encode(self) -> Iterator[tuple[Split, Encoded]]:
        return encode_batches(
            self._batches(),
            tokenizer_path=cast("Tokenizer", self._tokenizer).path,
            vocab_size=self._data.vocab_size,
            dtype=self.writers["train"].dtype,
            bos_token_id=self._data.bos_token_id,
            eos_token_id=self.eos_token_id if self._data.adds_eos else None,
            workers=self._num_workers(),
        )

    def _batches(self) -> Iterator[tuple[Split, Batch]]:
        open_batches: dict[Split, Batch] = {split: Batch([], [], []) for split in SPLITS}
        sizes: Counter[Split] = Counter()
        tokenizer = cast("Tokenizer", self._tokenizer)
        for split, chunk, begins in cut_at_words(self._routed(), tokenizer):
            batch = open_batches[split]
            batch.texts.append(cast("bytes", chunk.content))
            batch.begins.append(begins)
            batch.ends.append(chunk.ends_document)
            sizes[split] += len(chunk.content)
            if sizes[split] >= _BATCH_BYTES:
                yield split, batch
                open_batches[split], sizes[split] = Batch([], [], []), 0
        for split, batch in open_batches.items():
            if batch.texts:
                yield split, batch

    def _given_tokens(self) -> Iterator[tuple[Split, Encoded]]:
        vocab_size, eos = self._data.vocab_size, self.eos_token_id
        for split, chunk, _ in self._routed():
            tokens = np.asarray(chunk.content)
            if tokens.max() >= vocab_size:
                raise ValueError(
                    f"token id {tokens.max()} in document {self._documents[split]} of {split} is "
                    f"not below vocab_size={vocab_size}; use the model.vocab_size that the "
                    "corpus was tokenized for"
                )
            if self._data.adds_eos and tokens[-1] != eos:
                tokens = np.append(tokens, eos)
            tokens = tokens.astype(self.writers[split].dtype)
            yield split, Encoded(tokens, np.array([len(tokens)]))

    def _num_workers(self) -> int:
        if self._config.workers is not None:
            return self._config.workers
        if not self._found.is_complete:
            return available_cores()
        useful = self._found.num_bytes.total() // _BYTES_PER_WORKER
        return min(available_cores(), max(1, useful))

    def _estimate_remaining(self) -> None:
        """Estimate the size of the remaining shards, for the message if the disk is full."""
        if not self._found.is_complete:
            return
        for split, writer in self.writers.items():
            done, total = self._text_bytes[split], self._found.num_bytes[split]
            writer.remaining_bytes = int(
                writer.num_tokens * writer.dtype.itemsize * (total - done) / max(done, 1)
            )


def count_tokens(stream: TokenStream, vocab_size: int) -> NDArray[np.int64]:
    """Number of occurrences of each token, (vocab,)."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(stream), 1 << 20):
        counts += np.bincount(stream[start : start + (1 << 20)], minlength=vocab_size)
    return counts


def count_bytes(tokenizer: Tokenizer | None, counts: NDArray[np.int64]) -> int | None:
    """Bytes of text that the tokens of a split stand for; None without a tokenizer."""
    return None if tokenizer is None else int((counts * tokenizer.byte_counts(len(counts))).sum())


def count_unknown_tokens(
    tokenizer: Tokenizer | None, counts: Mapping[Split, NDArray[np.int64]]
) -> int:
    """Number of characters that the tokenizer maps to its unknown token."""
    unknown = None if tokenizer is None else tokenizer.unk_id
    return 0 if unknown is None else sum(int(of[unknown]) for of in counts.values())
