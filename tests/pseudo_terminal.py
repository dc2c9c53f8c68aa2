"""A program in a terminal of its own, for tests of what people see and type."""

import os
import pty
import select
import time
from collections.abc import Mapping, Sequence

ROWS_AND_COLUMNS = (24, 80)


class PseudoTerminal:
    """Starts a program; `read_until` and `type` are the screen and the keyboard.

    Args:
        command: the program and its arguments.
        environment: further variables.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.text = ""
        """All that was shown."""
        self._read = 0
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.execvpe(command[0], list(command), {**os.environ, **environment})

    def read_until(self, text: str, seconds: float = 60) -> str:
        """Wait for a text; what was shown before it, since the text that was waited for last.

        Raises:
            TimeoutError: it is not shown.
        """
        end = time.monotonic() + seconds
        while (place := self.text.find(text, self._read)) < 0:
            if not select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"{text!r} is not shown; the screen is\n{self.text}")
            self.text += self._next()
        before = self.text[self._read : place]
        self._read = place + len(text)
        return before

    def type(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C, and `\\x04` is Ctrl-D."""
        os.write(self._terminal, keys.encode())

    def wait(self) -> int:
        """Wait for the end of the program; its exit code, negative for a signal."""
        while piece := self._next():
            self.text += piece
        _, status = os.waitpid(self.process, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)

    def _next(self) -> str:
        """What is shown next; nothing at the end."""
        try:
            return os.read(self._terminal, 65536).decode(errors="replace")
        except OSError:  # Linux reports the end so
            return ""
