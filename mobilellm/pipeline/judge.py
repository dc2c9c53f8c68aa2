"""Lets two models answer conversations, and a judge compare their answers."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.evaluation.conversations.answers import write_answers
from mobilellm.evaluation.conversations.asked_turns import asked_turns, fitting_turns
from mobilellm.evaluation.conversations.names import CHAT
from mobilellm.evaluation.judge.client import ChatClient
from mobilellm.evaluation.judge.question import question, read_verdict
from mobilellm.evaluation.judge.replies import Replies
from mobilellm.evaluation.judge.win_rate import Judgement, win_rate_record
from mobilellm.files import write_text_atomically
from mobilellm.paths import check_writable
from mobilellm.pipeline.conversation_tasks import (
    OpenConversationTask,
    chat_format,
    open_conversation_tasks,
)
from mobilellm.pipeline.evaluated_model import check_model, open_language_model
from mobilellm.pipeline.evaluation_progress import EvaluationProgress
from mobilellm.pipeline.evaluation_settings import MAX_NEW_TOKENS, EvaluationSettings
from mobilellm.strict_json import to_json

RESULT = "judge.json"
REPLIES_OF_DATA = "the replies of the data"

Answers = Mapping[tuple[int, int], str]
"""Answers by the indices of dialogue and turn."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How answers are made and judged.

    Raises:
        ValueError: a setting is out of range, or the environment does not have the key.
    """

    url: str
    judge: str
    """Name of the judge, as the server knows it."""
    conversations: Path
    layout: str = "auto"
    limit: int | None = None
    max_new_tokens: int | None = None
    device: str = "cpu"
    key_variable: str | None = None
    """Name of the environment variable with the key for the server; None: none is sent."""
    out: Path | None = None
    """Folder for the result and the replies of the judge."""

    def evaluation(self) -> EvaluationSettings:
        """The settings with which the models answer."""
        return EvaluationSettings(
            tasks=(CHAT,), conversations=self.conversations,
            layout=self.layout,  # pyright: ignore[reportArgumentType]
            limit=self.limit, max_new_tokens=self.max_new_tokens, device=self.device,
        )  # fmt: skip

    def client(self) -> ChatClient:
        """The judge."""
        key = None if self.key_variable is None else os.environ.get(self.key_variable)
        if self.key_variable is not None and not key:
            raise ValueError(
                f"--key-variable {self.key_variable}: the environment has no such variable; set it"
            )
        return ChatClient(url=self.url, model=self.judge, key=key)


def judge_models(folders: Sequence[Path], settings: JudgeSettings) -> dict[str, Any]:
    """Compare the answers of two models, or of one model with the replies of the data.

    Each turn of the assistant is answered after the turns before it as they are in the data; each
    pair is judged in both orders.

    Args:
        folders: of one or two models.
        settings: conversations and judge.

    Returns:
        The record of `win_rate_record` with the names of models and judge, and all pairs.

    Raises:
        FileNotFoundError, ValueError: a model, a file or a setting is wrong, `out` has the result
            of another comparison or cannot be written, or see `ChatClient`.
    """
    options, client = settings.evaluation(), settings.client()
    if settings.out is not None:
        check_writable("--out", settings.out)
    replies = Replies(settings.out, settings.judge, client.ask)
    talk = open_conversation_tasks(options)[CHAT]
    compared = _compared(folders, settings, talk)
    is_repeated = _has_result(settings.out, compared)
    for folder in folders:
        check_model(folder, options)
    if not is_repeated:  # otherwise the replies are known, and no question is asked
        client.check_reachable()
    answers = [_answers(folder, talk, options) for folder in folders]
    if len(folders) == 1:
        answers.append(_replies_of_data(talk))
    judgements, pairs = _judged(talk, answers, replies)
    record = {**compared, **win_rate_record(judgements), "answers": pairs}
    if settings.out is not None:
        write_text_atomically(settings.out / RESULT, to_json(record, ensure_ascii=False) + "\n")
    return record


def _compared(
    folders: Sequence[Path], settings: JudgeSettings, talk: OpenConversationTask
) -> dict[str, Any]:
    """What is compared, and how: a result of anything else is not replaced."""
    keys = b"".join(conversation.key() for conversation in talk.task.conversations)
    return {
        "first": str(folders[0]),
        "second": str(folders[1]) if len(folders) > 1 else REPLIES_OF_DATA,
        "judge": settings.judge,
        # Layout and limit have an effect on these only.
        "conversations": len(talk.task.conversations),
        "conversations_hash": hashlib.blake2b(keys, digest_size=16).hexdigest(),
        "max_new_tokens": settings.max_new_tokens or MAX_NEW_TOKENS,
    }


def _has_result(out: Path | None, compared: Mapping[str, Any]) -> bool:
    """Whether a folder has the result of the same comparison already.

    Raises:
        ValueError: it has that of another comparison, or the file is damaged.
    """
    if out is None or not (out / RESULT).is_file():
        return False
    try:
        before = json.loads((out / RESULT).read_text(encoding="utf-8"))
        differing = [name for name, value in compared.items() if before.get(name) != value]
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{out / RESULT} is not a result of this command ({error}); give a new --out"
        ) from None
    if differing:
        raise ValueError(
            f"{out / RESULT} is the result of another comparison ({', '.join(differing)} differ), "
            "and is not overwritten; give a new --out"
        )
    return True


def _answers(folder: Path, talk: OpenConversationTask, options: EvaluationSettings) -> Answers:
    """What a model writes in the place of each turn of the assistant."""
    model = open_language_model(folder, options)
    protocol = talk.protocol(model)
    turns = asked_turns(talk.task.conversations, chat_format(model.tokenizer, options))
    turns = [turn for turn in turns if turn.is_reply]
    turns = fitting_turns(turns, model.context_length, protocol.max_new_tokens)
    with EvaluationProgress(folder.name) as progress:
        progress.begin("answers", len(turns))
        found = write_answers(model, turns, protocol, advance=progress.advance)
    return {
        (turn.dialogue, turn.index): answer.text for turn, answer in zip(turns, found, strict=True)
    }


def _replies_of_data(talk: OpenConversationTask) -> Answers:
    return {
        (number, index): turn.text
        for number, conversation in enumerate(talk.task.conversations)
        for index, turn in enumerate(conversation.turns)
        if turn.role == "assistant"
    }


def _judged(
    talk: OpenConversationTask, answers: Sequence[Answers], replies: Replies
) -> tuple[list[Judgement], list[dict[str, Any]]]:
    """The verdicts on all pairs of answers, and the pairs for people who want to read them.

    Raises:
        ValueError: no turn was answered by both.
    """
    first, second = answers
    common = [place for place in first if place in second]
    if not common:
        raise ValueError("no turn fits into the contexts of both models; use --max-new-tokens N")
    judgements, pairs = [], []
    with EvaluationProgress("judge") as progress:
        progress.begin("pairs", len(common))
        try:
            for dialogue, index in common:
                conversation = talk.task.conversations[dialogue]
                one, other = first[dialogue, index], second[dialogue, index]
                before = conversation.turns[:index]
                said = [replies.reply(question(before, one, other)),
                        replies.reply(question(before, other, one))]  # fmt: skip
                judgements.append(Judgement(dialogue, *map(read_verdict, said)))
                pairs.append({
                    "place": conversation.place, "turn": index, "first": one, "second": other,
                    "points": judgements[-1].points, "replies": said,
                })  # fmt: skip
                progress.advance(1)
        finally:
            replies.save()
    return judgements, pairs
