"""A logit store of a few windows, and what it is made of."""

from pathlib import Path

import torch

from mobilellm.distillation.logit_store.manifest import LogitInputs
from mobilellm.distillation.logit_store.store import LogitStore
from mobilellm.distillation.logit_store.writer import LogitWriter
from mobilellm.distillation.losses.targets import TopK, top_k_of

WINDOWS, SEQUENCE, VOCAB, K = 23, 6, 300, 5
BELONGS = {
    "vocab_size": VOCAB,
    "sequence_length": SEQUENCE,
    "document_mask": False,
    "data_hash": "the data",
    "tokenizer_hash": "the tokenizer",
}


def inputs(**changes) -> LogitInputs:
    options = {
        **BELONGS, "teacher_hash": "the teacher", "k": K, "precision": "fixed16",
        "packing": "plain", "temperature": 2.0, "num_windows": WINDOWS, "windows_per_shard": 4,
    }  # fmt: skip
    return LogitInputs(**{**options, **changes})


def logits() -> torch.Tensor:
    return torch.randn(WINDOWS, SEQUENCE, VOCAB, generator=torch.Generator().manual_seed(0)) * 5


def tokens(window: int) -> TopK:
    return top_k_of(logits()[window], K, temperature=2.0)


def write_shard(writer: LogitWriter, number: int) -> None:
    with writer.shard(number) as file:
        for window in writer.inputs.windows_of(number):
            file.append(tokens(window))


def write(folder: Path, **changes) -> LogitStore:
    writer = LogitWriter(folder, inputs(**changes))
    for number in writer.missing:
        write_shard(writer, number)
    writer.finish()
    return LogitStore(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
