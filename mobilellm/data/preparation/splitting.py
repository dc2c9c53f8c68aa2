"""Assign documents to splits, and survey a corpus in one pass."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from mobilellm.data.config import DataConfig
from mobilellm.data.preparation.held_out import (
    LastShare,
    Outline,
    RoutedChunk,
    chunk_bytes,
    is_held_out,
)
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.resolved import ResolvedData
from mobilellm.data.source import SPLITS, Chunk, Split
from mobilellm.data.tokenizers.even_sample import EvenSample

logger = logging.getLogger(__name__)


def routed_chunks(config: DataConfig, last_share: LastShare | None = None) -> Iterator[RoutedChunk]:
    """Yield all chunks of the corpus with their splits; a separate validation split comes last.

    A document is held out if the hash of its beginning is below the share. The choice depends only
    on the text: it does not change if other documents are added, removed or moved, and copies of a
    document are in the same split.

    Args:
        config: configuration of the corpus.
        last_share: if given, the end of the text is held out instead of whole documents.
    """
    chunks = _limited_chunks(config)
    yield from (
        _route_by_hash(chunks, config.held_out_share)
        if last_share is None
        else last_share.route(chunks)
    )
    if config.has_validation:
        begins = True
        for chunk in config.chunks("validation"):
            yield RoutedChunk("validation", chunk, begins)
            begins = chunk.ends_document


def _limited_chunks(config: DataConfig) -> Iterator[Chunk]:
    """The chunks of `train`, up to the end of the document that reaches `max_megabytes`."""
    size, limit = 0, (config.max_megabytes or float("inf")) * 1e6
    for chunk in config.chunks("train"):
        yield chunk
        size += num_bytes(chunk)
        if chunk.ends_document and size >= limit:
            return


def _route_by_hash(chunks: Iterator[Chunk], share: float) -> Iterator[RoutedChunk]:
    split: Split = "train"
    begins = True
    for chunk in chunks:
        if begins:
            split = "validation" if is_held_out(chunk_bytes(chunk), share) else "train"
        yield RoutedChunk(split, chunk, begins)
        begins = chunk.ends_document


def num_bytes(chunk: Chunk) -> int:
    """Size of a chunk in bytes, of its text or of its token ids."""
    content = chunk.content
    return len(content) if isinstance(content, bytes) else content.nbytes


@dataclass
class Survey:
    """The results of one pass over a corpus."""

    documents: Counter[Split] = field(default_factory=Counter)
    num_bytes: Counter[Split] = field(default_factory=Counter)
    sample: EvenSample | None = None
    """Sample of the training text, for the tokenizer."""
    is_complete: bool = True
    """Whether the whole corpus was read."""
    last_share: LastShare | None = None
    """Where the validation text begins, if there are too few documents to hold out whole ones;
    else None."""

    @property
    def has_both(self) -> bool:
        """Whether both splits have text."""
        return all(self.documents[split] for split in SPLITS)

    def held_out_rule(self, config: DataConfig) -> str | None:
        """See the function `held_out_rule`."""
        return held_out_rule(config, is_last_share=self.last_share is not None)


def survey(data: ResolvedData, *, sample_bytes: int | None, bar: ProgressBar) -> Survey:
    """Read the corpus once, to find errors, its size, and a sample of text for the tokenizer.

    If the corpus is not on this machine, reading stops after 16 times the size of the sample, as
    soon as a document has been held out. If there are too few documents to hold out whole ones, the
    corpus is read twice, because the position of the split depends on its size.

    Args:
        data: the data to prepare.
        sample_bytes: largest size of the sample; None: no sample.
        bar: progress bar, advanced by the bytes read.

    Raises:
        ValueError: the text is invalid, or a split has no text.
    """
    config = data.config
    if not config.is_local and not sample_bytes and config.has_validation:
        return Survey(is_complete=False)
    outline = None if config.has_validation else Outline()
    found = _read(config, sample_bytes, bar, outline=outline)
    if outline is not None and found.documents.total() and not found.has_both:
        share = config.held_out_share
        num_documents = found.documents.total()
        found = _read(config, sample_bytes, bar, last_share=outline.last_share(share))
        check_splits(data, found.documents)
        held_out, total = found.num_bytes["validation"], found.num_bytes.total()
        logger.info(
            "%s: a share of %g of %d document%s is less than one document, so the last %.3g %% of "
            "the text (%d of %d bytes) are held out for validation",
            data.name, share, num_documents, "" if num_documents == 1 else "s",
            100 * held_out / total, held_out, total,
        )  # fmt: skip
    elif found.is_complete:
        check_splits(data, found.documents)
    return found


def _read(
    config: DataConfig,
    sample_bytes: int | None,
    bar: ProgressBar,
    *,
    outline: Outline | None = None,
    last_share: LastShare | None = None,
) -> Survey:
    found = Survey(sample=EvenSample(sample_bytes) if sample_bytes else None, last_share=last_share)
    limit = float("inf") if config.is_local else 16 * (sample_bytes or 0)
    for split, chunk, begins in routed_chunks(config, last_share):
        found.documents[split] += begins
        found.num_bytes[split] += num_bytes(chunk)
        bar.advance(num_bytes(chunk))
        if found.sample is not None and split == "train" and isinstance(chunk.content, bytes):
            found.sample.add(chunk.content)
        if outline is not None and not found.has_both:
            # The outline is needed only if one of the splits has no document in the end.
            outline.add(chunk)
        elif last_share is None and found.num_bytes.total() > limit:
            found.is_complete = False
            break
    return found


def held_out_rule(config: DataConfig, *, is_last_share: bool) -> str | None:
    """The manifest's entry on how validation text was held out; None for a separate split."""
    if config.has_validation:
        return None
    return "last_share" if is_last_share else "documents"


def check_splits(data: ResolvedData, documents: Counter[Split]) -> None:
    """Check that both splits have documents.

    Raises:
        ValueError: a split has none.
    """
    config = data.config
    if not documents.total():
        raise ValueError(f"{data.name}: there is no text in data.train; give files with text")
    if config.has_validation:
        for split in SPLITS:
            if not documents[split]:
                raise ValueError(f"there is no text in data.{split}; give files with text")
    elif not (documents["train"] and documents["validation"]):
        raise ValueError(
            f"data.held_out={config.held_out_share} of the text in data.train leaves none for "
            f"{'validation' if documents['train'] else 'training'}, because there is so little of "
            "it; give more text, or a validation split"
        )
