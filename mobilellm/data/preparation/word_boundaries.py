"""Moves the cuts inside documents to places where they do not change the tokens."""

from collections.abc import Iterable, Iterator

from mobilellm.data.preparation.held_out import RoutedChunk
from mobilellm.data.source import MAX_CHUNK_BYTES, Chunk
from mobilellm.data.tokenizers import Tokenizer

# A part without a place to cut, such as Chinese text without spaces, is encoded as it is.
_LONGEST_PART = 8 * MAX_CHUNK_BYTES


def cut_at_words(chunks: Iterable[RoutedChunk], tokenizer: Tokenizer) -> Iterator[RoutedChunk]:
    """Yield the same documents in parts that end where `tokenizer.last_word_end` allows it.

    Args:
        chunks: parts of UTF-8 text; those of a document follow each other.
        tokenizer: the tokenizer that encodes each part by itself.
    """
    held, held_begins = b"", False
    for split, chunk, begins in chunks:
        text = held + bytes(chunk.content)
        is_begin = begins or held_begins
        end = len(text) if chunk.ends_document else tokenizer.last_word_end(text)
        if not end and len(text) > _LONGEST_PART:
            end = len(text)
        if end:
            yield RoutedChunk(split, Chunk(text[:end], chunk.ends_document), is_begin)
        held, held_begins = text[end:], is_begin and not end
