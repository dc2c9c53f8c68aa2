"""Data that is ready for training."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilellm.data.manifest import TOKENIZER, Record, damaged, read_manifest
from mobilellm.data.shards import TokenStream, token_dtype
from mobilellm.data.source import Split

if TYPE_CHECKING:
    from mobilellm.data.windows import Windows

TOKEN_BYTES = "token_bytes.npy"


class PreparedData:
    """A data folder with tokenizer, token streams and what is known about them.

    Args:
        folder: with a finished preparation.

    Raises:
        FileNotFoundError: nothing finished is there.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest."""
        self.dir = Path(folder)
        manifest = read_manifest(self.dir)
        if manifest is None:
            raise FileNotFoundError(
                f"{self.dir} holds no finished data; run scripts/prepare_data.py with the same data"
            )
        self.manifest: Record = manifest
        """What the data was made from and what is in it, as plain data."""

    @property
    def tokenizer_path(self) -> Path | None:
        """The SentencePiece model; None where the data came as token ids without one."""
        path = self.dir / TOKENIZER
        return path if self.hashes["tokenizer"] else None

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self.manifest["vocab_size"]

    @property
    def eos_token_id(self) -> int:
        """The token that ends a document."""
        return self.manifest["eos_token_id"]

    @property
    def hashes(self) -> dict[str, str | None]:
        """Of "data" (the text, or ids, whatever the tokenizer), "tokenizer", "train", "validation".

        The last two are of the token streams; that of the tokenizer is of its pieces and scores,
        None where there is none.
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
        """What a split is trained or validated on, see `mobilellm.data.windows`.

        Args:
            split: "train" or "validation".
            sequence_length: tokens per window.
            document_mask: keep documents from attending to each other.

        Raises:
            ValueError: the split is too short for one window.
        """
        from mobilellm.data.windows import WindowDataset

        return WindowDataset(
            self.tokens(split),
            sequence_length,
            eos_token_id=self.eos_token_id,
            document_mask=document_mask,
            described=f"the {split} split in {self.dir}",
        )

    @cached_property
    def token_bytes(self) -> NDArray[np.int32] | None:
        """Bytes of UTF-8 text that each token stands for, (vocab,); None without a tokenizer.

        0 for BOS and EOS. Nats summed over target tokens, divided by the sum of their bytes times
        ln 2, are bits per byte.
        """
        path = self.dir / TOKEN_BYTES
        if self.tokenizer_path is None:
            return None
        try:
            counts = np.load(path)
        except (ValueError, EOFError) as error:
            raise damaged(path, str(error)) from None
        if counts.shape != (self.vocab_size,):
            raise damaged(path, f"it is of shape {counts.shape}, not ({self.vocab_size},)")
        return counts

    def bytes_of(self, tokens: NDArray[Any]) -> int:
        """Bytes of UTF-8 text that the tokens, of any shape, stand for.

        Raises:
            ValueError: no tokenizer is known.
        """
        if self.token_bytes is None:
            raise ValueError(
                f"{self.dir} was prepared from token ids, whose bytes are not known; give "
                "data.tokenizer to measure bits per byte"
            )
        return int(self.token_bytes[tokens].sum(dtype=np.int64))
