"""How a text is cut into windows for perplexity: the protocols that published numbers follow."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

DEFAULT_WINDOW = 512


@dataclass(frozen=True, kw_only=True)
class TextProtocol:
    """A rule for the windows of a text.

    Raises:
        ValueError: the window is below 2, or the stride is not between 1 and the window.
    """

    name: str
    window: int
    """The most tokens that the model reads at once."""
    stride: int
    """Tokens by which a window begins after the one before it. If it is smaller than the window,
    all but the first window read the tokens before theirs again, and predict `stride` tokens."""
    begins_windows: bool = True
    """Whether every window of a text begins with the begin-of-text token, if the model's protocol
    has one; otherwise only the text does."""
    counts_last: bool = False
    """Whether the last predicted token of a window, which the model does not read, counts as one of
    its tokens. The first token of the text is then predicted only after a begin-of-text token."""
    is_disjoint: bool = False
    """Whether windows have no token in common: the first token of each is then not predicted, and
    an incomplete last window is left out. Requires `counts_last`."""
    joins_rows: bool = False
    """Whether the lines of a text are joined as the rows of the WikiText data sets are: by two
    line ends, in addition to their own, and blank lines as empty rows."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.window < 2:
            raise ValueError(f"window={self.window} must be at least 2 tokens")
        if not 1 <= self.stride <= self.window:
            raise ValueError(
                f"stride={self.stride} must lie between 1 and window={self.window}; a larger one "
                "would leave out text"
            )

    def with_sizes(self, window: int | None, stride: int | None) -> "TextProtocol":
        """Return the protocol with other sizes; None keeps a size, or its relation to the other.

        Raises:
            ValueError: a size is out of range, or the protocol does not allow that stride.
        """
        if window is None and stride is None:
            return self
        own = self.window if window is None else window
        step = stride or (own if self.stride == self.window else max(1, own // 2))
        if self.is_disjoint and step != own:
            raise ValueError(
                f"protocol {self.name} has windows without common tokens, so that stride={step} "
                f"must be window={own}; leave out the stride, or use the protocol strided"
            )
        return replace(self, window=own, stride=step)

    def describe(self) -> str:
        """Window and stride in words."""
        if self.is_disjoint:
            return f"{self.name}: disjoint windows of {self.window} tokens"
        overlap = "" if self.stride == self.window else f", stride {self.stride}"
        return f"{self.name}: windows of {self.window} tokens{overlap}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        TextProtocol(name="documents", window=DEFAULT_WINDOW, stride=DEFAULT_WINDOW),
        # facebookresearch/MobileLLM, eval.py: WikiText-2, raw, test.
        TextProtocol(
            name="meta", window=2048, stride=2048,
            begins_windows=False, counts_last=True, is_disjoint=True, joins_rows=True,
        ),
        # Hugging Face transformers, "Perplexity of fixed-length models".
        TextProtocol(
            name="strided", window=1024, stride=512,
            begins_windows=False, counts_last=True, joins_rows=True,
        ),
    )
}  # fmt: skip
"""By name: `documents` (the default), `meta` (that of MobileLLM's WikiText-2 numbers) and
`strided` (that of the Hugging Face documentation)."""


@dataclass(frozen=True)
class Window:
    """Tokens that the model reads, and those after them that it predicts."""

    prompt: tuple[int, ...]
    predicted: tuple[int, ...]


def text_windows(
    tokens: Sequence[int], protocol: TextProtocol, *, begin: Sequence[int], start: int
) -> Iterator[Window]:
    """Cut the tokens of one text into windows.

    Args:
        tokens: of the text, without a begin-of-text token.
        protocol: the rule.
        begin: the begin-of-text token, or nothing if the model's protocol has none.
        start: what precedes the first token if there is no begin-of-text token.
    """
    window, stride = protocol.window, protocol.stride
    every = tuple(begin) if protocol.begins_windows else ()
    if every:
        stream, first, end = list(tokens), 0, window
    elif protocol.counts_last:
        stream, first, end = [*begin, *tokens], 1, window
    else:
        stream, first, end = [*(begin or [start]), *tokens], 1, window + 1
    before = window - stride + (not protocol.counts_last)
    before = before - 1 if every else max(1, before)
    while first < len(stream):
        if protocol.is_disjoint and end > len(stream):
            return
        # The tokens from `first` are predicted; those from `from_` are read.
        from_ = max(0, first - before)
        yield Window((*every, *stream[from_:first]), tuple(stream[first:end]))
        first = end + protocol.is_disjoint
        end += stride


def join_rows(text: str) -> str:
    """Join the lines of a text by two line ends, as WikiText is joined for perplexity.

    The rows of the Hugging Face data sets `wikitext-2-raw-v1` and `wikitext-103-raw-v1` are the
    lines of the file with their line ends; blank lines are empty rows.
    """
    # str.splitlines would also split at form feeds and other separators within a row.
    lines = io.StringIO(text, newline="\n").readlines()
    return "\n\n".join(line if line.strip() else "" for line in lines)
