"""Shows prepared conversations, with the tokens that are trained in colour."""

from collections.abc import Iterator
from itertools import groupby, islice, pairwise

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from mobilellm.data.prepared_conversations import PreparedConversations
from mobilellm.data.tokenizers import Tokenizer, open_tokenizer
from mobilellm.labels import MARK_REJECTED

BEGIN, END = "⟦", "⟧"
"""Marks around trained text where there are no colours."""


def show_trained(
    prepared: PreparedConversations, count: int, console: Console | None = None
) -> None:
    """Print the first training conversations, as their tokens stand for them.

    Args:
        prepared: the conversations.
        count: number of conversations; all, if there are fewer.
        console: where to print; default: stdout. If it is no terminal, trained tokens stand between
            `⟦` and `⟧` instead of being coloured.
    """
    console = console or Console(highlight=False)
    path = prepared.tokenizer_path
    if path is None:
        raise FileNotFoundError(f"{prepared.dir} has no tokenizer; prepare the data again")
    tokenizer = open_tokenizer(path)
    tokens, trained = prepared.tokens("train"), prepared.trained("train")
    starts = np.append(trained.document_starts().astype(np.int64), len(trained))
    for number, (start, end) in enumerate(islice(pairwise(starts), count), start=1):
        marks = trained[start:end]
        trained_tokens = int((marks != 0).sum())
        # Of a pair, the worse answer has marks of its own.
        kind = "worse answer" if marks.max() == MARK_REJECTED else "conversation"
        head = f"\n{kind} {number}: {end - start} tokens, {trained_tokens} trained"
        console.print(Text(head, style="bold"))
        shown = Text()
        for text, is_trained in _runs(tokenizer, tokens[start:end], marks != 0):
            if not is_trained:
                shown.append(text, style="dim")
            elif console.is_terminal:
                shown.append(text, style="green")
            else:
                shown.append(f"{BEGIN}{text}{END}")
        console.print(shown, soft_wrap=True)


def _runs(
    tokenizer: Tokenizer, tokens: NDArray[np.integer], marks: NDArray[np.bool_]
) -> Iterator[tuple[str, bool]]:
    """The text of each run of tokens that are all trained, or all not."""
    pairs = zip(tokens.tolist(), marks.tolist(), strict=True)
    for is_trained, run in groupby(pairs, key=lambda pair: pair[1]):
        yield text_with_names(tokenizer, [token for token, _ in run]), is_trained


def text_with_names(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text of tokens, with special tokens by their names."""
    parts = groupby(tokens, key=lambda token: token in tokenizer.special_ids)
    return "".join(
        "".join(map(tokenizer.piece, part)) if is_special else tokenizer.decode(list(part))
        for is_special, part in parts
    )
