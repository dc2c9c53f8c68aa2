"""Opens the tasks on conversations, and runs them on a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.data.conversation_files import read_conversations, read_held_out
from mobilellm.data.conversations.calls import Call
from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.turns import Conversation
from mobilellm.data.tokenizers import Tokenizer
from mobilellm.evaluation.conversations.answers import Protocol
from mobilellm.evaluation.conversations.names import API_CALLING, TASKS
from mobilellm.evaluation.conversations.task import ConversationTask, evaluate_conversations
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.language_model import Advance, LanguageModel
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.inference.constrained import Constraint, check_installed, constrained
from mobilellm.inference.end_tokens import end_tokens
from mobilellm.inference.function_calls import check_call, check_schemas
from mobilellm.inference.functions import calls_schema, make_functions
from mobilellm.pipeline.evaluation_settings import MAX_NEW_TOKENS, EvaluationSettings

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class OpenConversationTask:
    """A task, and the settings of the command."""

    task: ConversationTask
    options: EvaluationSettings

    @property
    def num_requests(self) -> int:
        """Number of turns that are answered, for a progress bar."""
        turns = [turn for one in self.task.conversations for turn in one.turns if turn.is_trained]
        calls = sum(bool(turn.calls) for turn in turns)
        return len(turns) + (calls if self._is_constrained else 0)

    @property
    def _is_constrained(self) -> bool:
        return self.options.constrained and self.task.name == API_CALLING

    def settings(self, model: LanguageModel) -> dict[str, Any]:
        """What the results depend on, apart from the weights."""
        form = chat_format(model.tokenizer, self.options)
        return self.task.settings(form, self.protocol(model), self.options.limit)

    def evaluate(self, model: LanguageModel, advance: Advance | None = None) -> TaskResult:
        """Run the task; see `evaluate_conversations`."""
        return evaluate_conversations(
            model, self.task, chat_format(model.tokenizer, self.options), self.protocol(model),
            limit=self.options.limit, advance=advance,
        )  # fmt: skip

    def protocol(self, model: LanguageModel) -> Protocol:
        """How the model answers."""
        tokenizer = model.tokenizer
        ends = end_tokens(with_tokenizer_ids(model.model.config, tokenizer), tokenizer)

        def constrain(tools: Tools) -> Constraint:
            schema = calls_schema(make_functions(tools))
            return constrained(tokenizer, schema, end_tokens=ends)

        return Protocol(
            end_tokens=ends,
            find_problem=_find_problem,
            constrain=constrain if self._is_constrained else None,
            max_new_tokens=self.options.max_new_tokens or MAX_NEW_TOKENS,
        )


def open_conversation_tasks(settings: EvaluationSettings) -> dict[str, OpenConversationTask]:
    """Read the conversations of the tasks that are wanted, before any model is loaded.

    Conversations of the training file that are evaluated do not count as training data, so that
    the file may be the one from which they were held out.

    Returns:
        The tasks by name; empty if none is wanted.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a row is not a conversation, a function has no valid schema, there is no
            conversation for a task, or a package is missing.
    """
    if not settings.conversation_tasks or settings.conversations is None:
        return {}
    if API_CALLING in settings.conversation_tasks:
        check_installed()
    held_out = read_held_out(settings.conversations, settings.layout, "--conversations")
    training: tuple[Conversation, ...] = ()
    trained = held_out.trained_functions
    if settings.train is not None:
        keys = {conversation.key() for conversation in held_out.conversations}
        every = read_conversations(settings.train, settings.layout, "--train")
        training = tuple(one for one in every if one.key() not in keys)
        trained = frozenset().union(*(conversation.functions for conversation in training))
    found = {}
    for name in settings.conversation_tasks:
        chosen = _conversations_of(name, held_out.conversations, settings)
        if name == API_CALLING:
            _check_functions(chosen)
        task = ConversationTask(
            name=name, conversations=chosen, training=training, trained_functions=trained
        )
        found[name] = OpenConversationTask(task, settings)
    return found


def chat_format(tokenizer: Tokenizer, settings: EvaluationSettings) -> ChatFormat:
    """How conversations are written for a model.

    Raises:
        ValueError: see `ChatFormat`.
    """
    given = {name: getattr(settings, name) for name in ("parser_role", "tool_role", "tools")}
    return ChatFormat(tokenizer=tokenizer, **{k: v for k, v in given.items() if v is not None})


def _conversations_of(
    name: str, every: Sequence[Conversation], settings: EvaluationSettings
) -> tuple[Conversation, ...]:
    """The conversations of a task: those with functions, or those without."""
    has_functions = name == API_CALLING
    chosen = [
        one for one in every
        if bool(one.functions) == has_functions and any(turn.is_trained for turn in one.turns)
    ]  # fmt: skip
    if not chosen:
        other = next(task for task in TASKS if task != name)
        raise ValueError(
            f"--conversations {settings.conversations} has no conversations "
            f"{'with' if has_functions else 'without'} functions, on which {name} is evaluated; "
            f"use --tasks {other}, or give other conversations"
        )
    return tuple(chosen[: settings.limit])


def _find_problem(call: Call, tools: Tools) -> str | None:
    return check_call(call, make_functions(tools))


def _check_functions(conversations: Sequence[Conversation]) -> None:
    """Check the functions before a model is loaded.

    Raises:
        ValueError: a function has no valid schema.
    """
    for conversation in conversations:
        try:
            check_schemas(make_functions(conversation.tools))
        except ValueError as error:
            raise ValueError(f"{conversation.place}: {error}") from None
