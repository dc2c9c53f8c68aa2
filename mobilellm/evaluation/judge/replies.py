"""Replies of a judge in a file, so that no question is asked twice."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mobilellm.files import write_text_atomically
from mobilellm.strict_json import to_json

FILE = "judge_replies.json"
SAVE_EVERY = 20
"""New replies after which the file is written."""


class Replies:
    """Asks a judge, and keeps what it said by the hash of the question.

    Args:
        folder: of the file; None: nothing is kept.
        judge: name of the model, which belongs to the question.
        ask: sends messages to the judge.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(
        self, folder: Path | None, judge: str, ask: Callable[[Sequence[dict[str, str]]], str]
    ) -> None:
        """Read the file, if there is one."""
        self._path = None if folder is None else folder / FILE
        self._judge = judge
        self._ask = ask
        self._known: dict[str, str] = {}
        self._unsaved = 0
        if self._path is not None and self._path.is_file():
            try:
                self._known = dict(json.loads(self._path.read_text(encoding="utf-8"))["replies"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self._path} is damaged ({error}); remove it, and judge again"
                ) from None

    def reply(self, messages: Sequence[dict[str, str]]) -> str:
        """The reply to a question, asked only if it is new."""
        text = json.dumps([self._judge, list(messages)], sort_keys=True)
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if key not in self._known:
            self._known[key] = self._ask(messages)
            self._unsaved += 1
            if self._unsaved >= SAVE_EVERY:
                self.save()
        return self._known[key]

    def save(self) -> None:
        """Write the file."""
        if self._path is not None and self._unsaved:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = to_json({"format": 1, "replies": self._known}, ensure_ascii=False)
            write_text_atomically(self._path, content + "\n")
            self._unsaved = 0
