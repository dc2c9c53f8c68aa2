"""Encode a stream of batches in parallel processes, in order and in bounded memory."""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

from numpy.typing import DTypeLike

from mobilellm.data.preparation.encoder import Batch, Encoded, Encoder
from mobilellm.data.tokenizers import load_tokenizer

Label = TypeVar("Label")

_encoder: Encoder | None = None


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_batches(
    batches: Iterable[tuple[Label, Batch]],
    *,
    tokenizer_path: Path,
    vocab_size: int,
    dtype: DTypeLike,
    bos_token_id: int | None = None,
    eos_token_id: int | None,
    workers: int,
) -> Generator[tuple[Label, Encoded], None, None]:
    """Encode batches in parallel and yield their tokens, in the order of the batches.

    Closing the generator, or an exception in it, ends the processes.

    Args:
        batches: batches with a label, which is yielded with the tokens. Only a few batches are read
            in advance.
        tokenizer_path: path of the tokenizer.
        vocab_size: vocabulary size of the language model.
        dtype: number type of the tokens.
        bos_token_id: put before each document; None puts nothing.
        eos_token_id: appended to each document; None appends nothing.
        workers: number of processes; 1 encodes in this process.
    """
    arguments = (str(tokenizer_path), vocab_size, str(dtype), bos_token_id, eos_token_id)
    if workers == 1:
        encoder = _make_encoder(*arguments)
        for label, batch in batches:
            yield label, encoder.encode(batch)
        return
    # Not fork: this process may have threads (torch, arrow), which do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=arguments
    )
    pending: deque[tuple[Label, Future[Encoded]]] = deque()
    try:
        for label, batch in batches:
            pending.append((label, pool.submit(_encode, batch)))
            if len(pending) > 2 * workers:
                done_label, future = pending.popleft()
                yield done_label, future.result()
        for done_label, future in pending:
            yield done_label, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_encoder(
    tokenizer_path: str, vocab_size: int, dtype: str, bos: int | None, eos: int | None
) -> Encoder:
    tokenizer = load_tokenizer(Path(tokenizer_path), vocab_size)
    return Encoder(tokenizer, dtype, eos, bos_token_id=bos)


def _start_worker(
    tokenizer_path: str, vocab_size: int, dtype: str, bos: int | None, eos: int | None
) -> None:
    global _encoder  # noqa: PLW0603 - one per worker process, for all its batches
    # Ctrl-C reaches all processes of a terminal; only the parent reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = _make_encoder(tokenizer_path, vocab_size, dtype, bos, eos)


def _end_with_parent() -> None:
    """End this worker if its parent is killed: it would otherwise wait for batches forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(batch: Batch) -> Encoded:
    if _encoder is None:
        raise RuntimeError("the worker has no tokenizer")
    return _encoder.encode(batch)
