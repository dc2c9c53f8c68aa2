"""A conversation in a terminal, or with one question per line of a pipe.

Answers go to stdout, everything else to stderr.
"""

import sys
import textwrap
from collections.abc import Iterator, Sequence

from mobilellm.cli.errors import one_line
from mobilellm.cli.messages import print_message
from mobilellm.data.conversations.calls import Call, find_calls, has_call_mark
from mobilellm.data.tokenizers import Message
from mobilellm.inference.chat_session import Answer, ChatSession
from mobilellm.inference.function_calls import check_call
from mobilellm.inference.functions import Function
from mobilellm.inference.text_generation import Sampling
from mobilellm.units import plural

WIDTH = 80
HELP = """\
/help    show this list
/reset   forget the conversation, and begin a new one
/exit    end the chat, as Ctrl-D does
Ctrl-C   stop the answer that is being written; what was written is kept"""
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\t"), ord("\n")})
PLAIN = (
    "This model has no chat template: it continues text and does not answer questions. Each line "
    "begins a new text; an empty line continues the last one."
)


class TerminalChat:
    """Reads messages, writes the answers, and keeps the conversation."""

    def __init__(
        self,
        session: ChatSession,
        *,
        max_new_tokens: int,
        sampling: Sampling,
        system: str | None = None,
        functions: Sequence[Function] = (),
    ) -> None:
        """Prepare the conversation.

        Args:
            session: of the model.
            max_new_tokens: the most tokens of an answer.
            sampling: how tokens are chosen.
            system: message of the system.
            functions: that the model may call; the calls in its answers are shown and checked.

        Raises:
            ValueError: there is a message of the system, and the model only continues text.
        """
        if session.is_plain and system is not None:
            raise ValueError(
                "--system needs a chat template, which this model does not have; leave it out"
            )
        self._session = session
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._functions = tuple(functions)
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._messages: list[Message] = list(self._system)
        self._is_interactive = sys.stdin.isatty()
        self._has_answered = False

    def run(self, title: str) -> None:
        """Talk until `/exit` or the end of the input.

        Args:
            title: of the model, for the first line.

        Raises:
            ValueError: the input is no terminal, and a message cannot be answered, or there is no
                such command.
        """
        if self._is_interactive:
            self._notice(f"{title}. /help lists the commands.")
            self._load_line_editing()
        if self._session.is_plain:
            self._notice(PLAIN)
        for line in self._lines():
            text = line.strip()
            if text == "/exit":
                return
            if text.startswith("/"):
                self._obey(text)
            elif text or (self._session.is_plain and self._messages):
                self._answer_line(line)

    def _obey(self, command: str) -> None:
        if command == "/help":
            print_message(HELP)
        elif command == "/reset":
            self._messages = list(self._system)
            self._session.reset()
            self._notice("The conversation is forgotten.")
        elif self._is_interactive:
            self._notice(f"There is no command {command}; use /help, /reset or /exit.")
        else:
            raise ValueError(f"there is no command {command}; use /help, /reset or /exit")

    def _answer_line(self, line: str) -> None:
        """Answer a message; one that cannot be answered is taken back."""
        before = list(self._messages)
        if self._session.is_plain and line.strip():
            self._messages = []
        self._messages.append({"role": "user", "content": line})
        try:
            self._answer()
            while results := self._results():
                self._messages += results
                self._answer()
        except ValueError as error:
            self._messages = before
            if not self._is_interactive:
                raise
            self._notice(f"error: {one_line(str(error))}")

    def _answer(self) -> None:
        """Write the model's next message, and keep it."""
        answer, pieces = self._session.reply(self._messages, self._max_new_tokens, **self._sampling)
        if answer.dropped_turns:
            self._notice(
                f"({plural(answer.dropped_turns, 'oldest turn')} dropped: the conversation is "
                "longer than the model's context)"
            )
            self._messages = answer.kept_messages
        if self._has_answered and not self._is_interactive:
            sys.stdout.write("\n")
        self._has_answered = True
        try:
            self._write(pieces)
        except KeyboardInterrupt:
            if not self._is_interactive:
                raise
        sys.stdout.write("\n")
        sys.stdout.flush()
        self._messages.append({"role": "assistant", "content": answer.text})
        self._notice(summary_line(answer))

    def _write(self, pieces: Iterator[str]) -> None:
        has_begun = False
        for piece in pieces:
            text = piece if has_begun or self._session.is_plain else piece.lstrip()
            has_begun = has_begun or bool(text)
            sys.stdout.write(without_controls(text) if sys.stdout.isatty() else text)
            sys.stdout.flush()

    def _results(self) -> list[Message]:
        """Show the calls in the last message, and ask for the results of those that are valid."""
        if not self._functions:
            return []
        text = self._messages[-1]["content"]
        calls = find_calls(text)
        if not calls and has_call_mark(text):
            self._notice("call: not valid JSON")
        results = [result for call in calls if (result := self._result(call)) is not None]
        return [{"role": "tool", "name": name, "content": content} for name, content in results]

    def _result(self, call: Call) -> tuple[str, str] | None:
        """The name of the function and the result that the user gives, if any."""
        problem = check_call(call, self._functions)
        self._notice(f"call: {call}", "valid" if problem is None else f"not valid: {problem}")
        if problem is not None or not self._is_interactive:
            return None
        try:
            given = input(f"result of {call.name} (empty: none)> ").strip()
        except (KeyboardInterrupt, EOFError):
            sys.stdout.write("\n")
            return None
        return (call.name, given) if given else None

    def _lines(self) -> Iterator[str]:
        """The lines of the input, without their ends."""
        if not self._is_interactive:
            for line in sys.stdin:
                yield line.rstrip("\r\n")
            return
        while True:
            try:
                yield input("> ")
            except EOFError:
                sys.stdout.write("\n")
                return
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                self._notice("/exit or Ctrl-D ends the chat.")

    @staticmethod
    def _load_line_editing() -> None:
        """Let `input` edit lines and remember earlier ones, where Python has GNU readline."""
        import importlib

        try:
            importlib.import_module("readline")
        except ImportError:  # on Windows, the terminal itself does it
            return

    @staticmethod
    def _notice(*lines: str) -> None:
        sys.stdout.flush()
        for line in lines:
            print_message(textwrap.fill(line, WIDTH, break_on_hyphens=False))


def without_controls(text: str) -> str:
    """A text without characters that control a terminal, except tabs and line breaks."""
    return text.translate(_CONTROLS)


def summary_line(answer: Answer) -> str:
    """Tokens, speed and end of an answer, in one line of at most 80 characters."""
    speed = answer.tokens_per_second
    parts = [plural(answer.new_tokens, "token")]
    if speed is not None:
        parts.append(f"{speed:.3g} tokens/s" if speed < 100 else f"{speed:.0f} tokens/s")
    parts.append(f"prompt {answer.prompt_tokens} ({answer.computed_tokens} computed)")
    ends = {
        "stopped": "stopped",
        "ended": "",
        "limit": "cut by --max-new-tokens",
        "context": "cut by the context",
    }
    return f"[{', '.join(filter(None, [*parts, ends[answer.end]]))}]"
