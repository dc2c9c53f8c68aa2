"""Prepared data: the tokenizer, the token streams and the manifest of a data folder."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.command_names import command_for
from mobilellm.data.manifest import Record, damaged, own_tokenizer_file, read_manifest
from mobilellm.data.shards import TokenStream, token_dtype
from mobilellm.data.source import Split

if TYPE_CHECKING:
    from mobilellm.data.windows import Windows

TOKEN_BYTES = "token_bytes.npy"


class PreparedData:
    """A finished data folder.

    Args:
        folder: a folder in which `prepare_data` has finished.

    Raises:
        FileNotFoundError: the folder has no finished data.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest."""
        self.dir = Path(folder)
        manifest = read_manifest(self.dir)
        if manifest is None:
            raise FileNotFoundError(
                f"{self.dir} holds no finished data; run {command_for('prepare_data')} with the "
                "same data settings"
            )
        self.manifest: Record = manifest
        """The inputs and contents of the folder, as plain data."""

    @property
    def tokenizer_path(self) -> Path | None:
        """The file of the tokenizer; None if the data were given as token ids without one."""
        return own_tokenizer_file(self.dir) if self.hashes["tokenizer"] else None

    @property
    def vocab_size(self) -> int:
        """Exclusive upper limit of the token ids."""
        return self.manifest["vocab_size"]

    @property
    def eos_token_id(self) -> int:
        """The token that ends a document."""
        return self.manifest["eos_token_id"]

    @property
    def bos_token_id(self) -> int | None:
        """The token that was put before each document; None if there is none."""
        return self.manifest.get("bos_token_id")

    @property
    def adds_eos(self) -> bool:
        """Whether `eos_token_id` was appended to each document."""
        return bool(self.manifest["inputs"]["options"].get("add_eos", True))

    @property
    def hashes(self) -> dict[str, str | None]:
        """Hashes of "data", "tokenizer", "train" and "validation".

        "data" is the hash of the text or of the given ids, and does not depend on the tokenizer.
        "tokenizer" is the hash of its tokens and scores; None if there is no tokenizer. "train" and
        "validation" are the hashes of the token streams.
        """
        return self.manifest["hashes"]

    @property
    def baselines(self) -> dict[str, float]:
        """`unigram_nats_per_token` and `bigram_nats_per_token` on the validation split."""
        return self.manifest["baselines"]

    def tokens(self, split: Split) -> TokenStream:
        """The token stream of "train" or "validation"."""
        return TokenStream(
            self.dir / split,
            self.manifest["splits"][split]["tokens"],
            token_dtype(self.vocab_size),
            shard_tokens=self.manifest["shard_tokens"],
        )

    def windows(
        self, split: Split, sequence_length: int, *, document_mask: bool = False
    ) -> "Windows":
        """The windows of a split; see `mobilellm.data.windows`.

        Args:
            split: "train" or "validation".
            sequence_length: tokens per window.
            document_mask: limit attention to the tokens of one document.

        Raises:
            ValueError: the split is too short for one window.
        """
        from mobilellm.data.windows import WindowDataset

        return WindowDataset(
            self.tokens(split),
            sequence_length,
            eos_token_id=self.eos_token_id,
            bos_token_id=None if self.adds_eos else self.bos_token_id,
            document_mask=document_mask,
            described=f"the {split} split in {self.dir}",
        )

    def tokens_per_epoch(self, sequence_length: int) -> int:
        """Positions of all training windows, unused ones included: what one pass costs.

        Raises:
            ValueError: see `windows`.
        """
        return len(self.windows("train", sequence_length)) * sequence_length

    @cached_property
    def token_bytes(self) -> NDArray[np.int32] | None:
        """Bytes of UTF-8 text that each token stands for, (vocab,); None without a tokenizer.

        It is 0 for BOS and EOS. The sum of the losses of target tokens in nats, divided by ln 2
        times the sum of their bytes, is the loss in bits per byte.
        """
        path = self.dir / TOKEN_BYTES
        if self.tokenizer_path is None:
            return None
        try:
            counts = np.load(path)
        except (ValueError, EOFError) as error:
            raise damaged(path, str(error)) from None
        if counts.shape != (self.vocab_size,):
            raise damaged(path, f"its shape is {counts.shape}, not ({self.vocab_size},)")
        return counts

    def count_bytes(self, tokens: NDArray[Any]) -> int:
        """Number of bytes of UTF-8 text that the tokens (an array of any shape) stand for.

        Raises:
            ValueError: the data were prepared without a tokenizer.
        """
        if self.token_bytes is None:
            raise ValueError(
                f"{self.dir} was prepared from token ids, and their text is not known; set "
                "data.tokenizer to measure bits per byte"
            )
        return int(self.token_bytes[tokens].sum(dtype=np.int64))
