"""A sample of bounded size of the text that a tokenizer is trained on."""

from mobilellm.data.source import cut_text

# SentencePiece skips longer training sentences without a warning.
MAX_PART_BYTES = 4192


class EvenSample:
    """A sample of a text of unknown length: parts of at most `max_bytes` in all, spread evenly.

    At first every part is kept. Whenever the sample becomes too large, every second part is
    dropped, and only half as many of the following parts are kept. The memory is bounded, one pass
    is enough, and the same text gives the same sample.

    Args:
        max_bytes: largest size of the sample.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start with an empty sample."""
        self.max_bytes = max_bytes
        self.parts: list[bytes] = []
        self.num_bytes = 0
        self._stride = 1
        self._num_seen = 0

    def add(self, text: bytes) -> None:
        """Add the next part of the text."""
        for part in cut_text(text, MAX_PART_BYTES):
            if self._num_seen % self._stride == 0:
                self.parts.append(part)
                self.num_bytes += len(part)
                while self.num_bytes > self.max_bytes and len(self.parts) > 1:
                    self.parts = self.parts[::2]
                    self.num_bytes = sum(map(len, self.parts))
                    self._stride *= 2
            self._num_seen += 1
