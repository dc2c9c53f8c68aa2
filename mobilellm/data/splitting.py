"""Which document belongs to which split, and one pass over the corpus to learn its size."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mobilellm.data.config import DataConfig
from mobilellm.data.progress_bar import ProgressBar
from mobilellm.data.source import Piece, Split
from mobilellm.data.tokenizer import EvenSample


class RoutedPiece(NamedTuple):
    """A piece and where it goes."""

    split: Split
    piece: Piece
    begins_document: bool


def routed_pieces(config: DataConfig) -> Iterator[RoutedPiece]:
    """All pieces of the corpus, training documents first, then those of a validation split.

    A document is held out when the hash of its beginning falls into the share: the choice depends
    on nothing but the text, so it stays when documents are added, removed or moved, and copies of
    a document are never on both sides.
    """
    split: Split = "train"
    begins, size = True, 0
    limit = (config.max_megabytes or float("inf")) * 1e6
    for piece in config.pieces("train"):
        if begins:
            content = piece.content if isinstance(piece.content, bytes) else piece.content.tobytes()
            split = "validation" if is_held_out(content, config.held_out_share) else "train"
        yield RoutedPiece(split, piece, begins)
        begins = piece.ends_document
        size += num_bytes(piece)
        if begins and size >= limit:
            break
    if config.has_validation:
        begins = True
        for piece in config.pieces("validation"):
            yield RoutedPiece("validation", piece, begins)
            begins = piece.ends_document


def num_bytes(piece: Piece) -> int:
    """Bytes of text, or of ids where the corpus is token ids."""
    content = piece.content
    return len(content) if isinstance(content, bytes) else content.nbytes


@dataclass
class Survey:
    """What one pass over a corpus found."""

    documents: Counter[Split] = field(default_factory=Counter)
    num_bytes: Counter[Split] = field(default_factory=Counter)
    sample: EvenSample | None = None
    """Of the training text, for the tokenizer."""
    is_complete: bool = True
    """Whether the whole corpus was read."""


def survey(config: DataConfig, *, sample_bytes: int | None, bar: ProgressBar) -> Survey:
    """Read the corpus once: find every fault in it, its size, and text for the tokenizer.

    A corpus that is not on this machine is read only as far as the sample needs: 16 times its
    size, and not at all where there is a tokenizer.

    Args:
        config: the data.
        sample_bytes: most bytes of training text to be kept; None: none.
        bar: advanced by the bytes read.

    Raises:
        ValueError: faulty text, or a split without any.
    """
    found = Survey(sample=EvenSample(sample_bytes) if sample_bytes else None)
    limit = float("inf") if config.is_local else 16 * (sample_bytes or 0)
    if not limit:
        found.is_complete = False
        return found
    for split, piece, begins in routed_pieces(config):
        found.documents[split] += begins
        found.num_bytes[split] += num_bytes(piece)
        bar.advance(num_bytes(piece))
        if found.sample is not None and split == "train" and isinstance(piece.content, bytes):
            found.sample.add(piece.content)
        if found.num_bytes.total() > limit:
            found.is_complete = False
            return found
    check_splits(config, found.documents)
    return found


def check_splits(config: DataConfig, documents: Counter[Split]) -> None:
    """Check that both splits have documents.

    Raises:
        ValueError: one has none.
    """
    if not documents.total():
        raise ValueError(f"{config.name}: there is no text in data.train; give files with text")
    if config.has_validation:
        for split in ("train", "validation"):
            if not documents[split]:
                raise ValueError(f"there is no text in data.{split}; give files with text")
    elif not (documents["train"] and documents["validation"]):
        empty = "validation" if documents["train"] else "train"
        remedy = "cut documents finer (data.document=blank_line), " if _is_text(config) else ""
        raise ValueError(
            f"data.held_out={config.held_out_share} of {documents.total()} documents leaves none "
            f"for {empty}; {remedy}choose another data.held_out, or give a validation split"
        )


def _is_text(config: DataConfig) -> bool:
    return hasattr(config, "document")


def is_held_out(text: bytes, share: float) -> bool:
    """Whether a document that begins so is one of the `share` for validation."""
    if not share:
        return False
    digest = hashlib.blake2b(text, digest_size=8, person=b"held_out").digest()
    return int.from_bytes(digest, "big") < share * 2**64
