"""Put a tokenizer into a data folder: the given one, or a new one."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mobilellm.data.manifest import own_tokenizer_file
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.prepared import TOKEN_BYTES
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.tokenizers import Tokenizer, load_tokenizer
from mobilellm.data.tokenizers.even_sample import EvenSample
from mobilellm.data.tokenizers.training import train_tokenizer
from mobilellm.files import write_bytes_atomically


def make_tokenizer(
    data: ResolvedData, sample: EvenSample | None, bar: ProgressBar
) -> Tokenizer | None:
    """Copy the given tokenizer into the folder; without one, reuse the folder's or train one.

    Returns:
        The tokenizer in the folder; None if the data are token ids and no tokenizer is given.
    """
    if data.config.tokenizer is not None:
        given = load_tokenizer(Path(data.config.tokenizer), data.vocab_size)
        _write(data.folder, given.files())
    elif sample is None:
        return None
    elif own_tokenizer_file(data.folder) is None:
        with bar.phase("training tokenizer", counts_bytes=False):
            kind = data.config.tokenizer_kind
            _write(data.folder, train_tokenizer(kind, sample.parts, data.vocab_size))
    path = own_tokenizer_file(data.folder)
    if path is None:
        raise FileNotFoundError(f"{data.folder} has no tokenizer; prepare the data again")
    tokenizer = load_tokenizer(path, data.vocab_size)
    table = io.BytesIO()
    np.save(table, tokenizer.byte_counts(data.vocab_size))
    write_bytes_atomically(data.folder / TOKEN_BYTES, [table.getvalue()])
    return tokenizer


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a tokenizer; the tokenizer itself last, when its settings are there."""
    for name in reversed(list(files)):
        write_bytes_atomically(folder / name, [files[name]])
