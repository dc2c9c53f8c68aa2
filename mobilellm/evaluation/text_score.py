"""Perplexity and bits per byte of texts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilellm.evaluation.intervals import bootstrap_intervals
from mobilellm.evaluation.language_model import Advance, LanguageModel
from mobilellm.evaluation.text_protocols import TextProtocol, Window, join_rows, text_windows


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """What a model predicts of a text, by windows."""

    nats: tuple[float, ...]
    """Sum over the predicted tokens of each window."""
    tokens: tuple[int, ...]
    """Number of predicted tokens of each window, special tokens between documents included."""
    num_bytes: tuple[float, ...]
    """Bytes of text of the predicted tokens of each window. They add up to the bytes of the text if
    all of it is predicted."""
    documents: int
    all_windows: int
    """Windows of the whole text, of which the first ones were scored."""
    protocol: str
    """In words."""

    @property
    def nats_per_token(self) -> float:
        """Cross entropy per predicted token."""
        return sum(self.nats) / sum(self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Cross entropy per byte of text, which is comparable between tokenizers."""
        return sum(self.nats) / math.log(2) / sum(self.num_bytes)

    def record(self) -> dict[str, object]:
        """The score as plain data; a single window has no intervals."""
        per_token, per_byte = bootstrap_intervals([
            (self.nats, self.tokens),
            (np.asarray(self.nats) / math.log(2), self.num_bytes),
        ])  # fmt: skip
        intervals = {"nats_per_token_interval": per_token, "bits_per_byte_interval": per_byte}
        return {
            "tokens": sum(self.tokens),
            "bytes": round(sum(self.num_bytes)),
            "documents": self.documents,
            "windows": len(self.nats),
            "all_windows": self.all_windows,
            "nats_per_token": self.nats_per_token,
            "perplexity": math.exp(self.nats_per_token),
            "bits_per_byte": self.bits_per_byte,
            **{name: list(ends) for name, ends in intervals.items() if ends is not None},
            "protocol": self.protocol,
        }


def score_text(
    model: LanguageModel,
    documents: Sequence[str],
    protocol: TextProtocol,
    *,
    are_joined: bool = False,
    max_windows: int | None = None,
    advance: Advance | None = None,
) -> TextScore:
    """Predict every token of a text that the protocol asks for.

    Args:
        model: with its tokenizer and its protocol of special tokens.
        documents: one text, or the documents of a collection.
        protocol: the windows.
        are_joined: whether windows cross documents, as in training: each document begins with the
            begin-of-text token, ends with the end-of-text token, or both, as the model's protocol
            says. Otherwise each document has windows of its own.
        max_windows: use the first windows only; None: all of them.
        advance: called with the number of windows that were scored, after each batch.

    Raises:
        ValueError: the window exceeds the model's context, or the text has too few tokens.
    """
    if protocol.window > model.context_length:
        raise ValueError(
            f"window={protocol.window} exceeds max_position_embeddings={model.context_length} of "
            f"{model.name}; use --window {model.context_length} or less"
        )
    texts = [join_rows(text) if protocol.joins_rows else text for text in documents]
    encoded = model.encode(texts)
    every = list(_windows(model, encoded, protocol, are_joined))
    windows = every[:max_windows]
    if not windows:
        raise ValueError(
            f"the text has {sum(map(len, encoded))} tokens, too few for {protocol.describe()}; "
            "use a smaller --window, or more text"
        )
    scores = model.score([(w.prompt, w.predicted) for w in windows], advance)
    sizes = np.array(_bytes_of(model, windows), dtype=np.float64)
    if _count_text(model, (w.predicted for w in windows)) >= _count_text(model, encoded):
        # All of the text is predicted. A tokenizer may add a space or normalise characters, so
        # that its tokens stand for other numbers of bytes than the text has.
        sizes *= sum(len(text.encode()) for text in texts) / max(1.0, sizes.sum())
    return TextScore(
        nats=tuple(-score.log_likelihood for score in scores),
        tokens=tuple(len(w.predicted) for w in windows),
        num_bytes=tuple(sizes.tolist()),
        documents=len(documents),
        all_windows=len(every),
        protocol=f"{protocol.describe()}; {_begin_text(model, protocol, are_joined)}",
    )


def _windows(
    model: LanguageModel, encoded: Sequence[Sequence[int]], protocol: TextProtocol, joined: bool
) -> list[Window]:
    if not joined:
        cut = (text_windows(t, protocol, begin=model.begin, start=model.start) for t in encoded)
        return [window for windows in cut for window in windows]
    end = (model.eos_id,) if model.ends_documents else ()
    stream = [token for tokens in encoded for token in (*model.begin, *tokens, *end)]
    first, stream = (stream[:1], stream[1:]) if model.begin else ([model.start], stream)
    # The document's own begin-of-text token begins the text; windows in it have no other.
    return list(
        text_windows(
            stream, replace(protocol, begins_windows=False), begin=first, start=model.start
        )
    )


def _count_text(model: LanguageModel, parts: Iterable[Sequence[int]]) -> int:
    """Number of tokens, without those between documents."""
    between = {*model.begin, model.eos_id}
    return sum(token not in between for tokens in parts for token in tokens)


def _bytes_of(model: LanguageModel, windows: Sequence[Window]) -> list[int]:
    counts = model.tokenizer.byte_counts(model.model.config.vocab_size)
    return [int(counts[list(window.predicted)].sum()) for window in windows]


def _begin_text(model: LanguageModel, protocol: TextProtocol, are_joined: bool) -> str:
    """How documents and windows begin, in words."""
    if are_joined:
        parts = ["after a begin-of-text token"] * bool(model.begin)
        parts += ["with an end-of-text token"] * model.ends_documents
        return f"documents joined, each {' and '.join(parts)}"
    if not model.begin:
        return "no begin-of-text token"
    every = protocol.begins_windows and not protocol.is_disjoint
    return f"a begin-of-text token before {'every window' if every else 'the text'}"
