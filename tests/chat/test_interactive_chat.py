"""The command in a process: in a terminal, with the keys that people press, and behind a pipe."""

import re
import subprocess
import sys
import time

import pytest
from chat_models import chat_tokenizer, save_chat_model
from tiny_tokenizers import make_constant_model

from mobilellm.checkpoint import save_model

pseudo_terminal = pytest.importorskip("pseudo_terminal", reason="needs a terminal of Unix")
pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "mobilellm", "chat"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "80"}


def test_a_chat_in_a_terminal(tmp_path):
    """The model writes `x` for ever, so that every answer has to be stopped."""
    tokenizer = chat_tokenizer(tmp_path / "t")
    [token] = tokenizer.encode("x")
    model = make_constant_model(
        token, vocab_size=300, max_position_embeddings=20_000, bos_token_id=1, eos_token_id=2
    )
    save_model(model, tmp_path / "m", tokenizer.path)
    command = [*COMMAND, str(tmp_path / "m"), "--max-new-tokens", "15000"]
    screen = pseudo_terminal.PseudoTerminal(command, ENVIRONMENT)

    def stopped_answer(message):
        screen.type(f"{message}\n")
        screen.read_until("xxxxxxxx")  # while the answer is being written
        screen.type("\x03")
        answer = screen.read_until(", stopped]\r\n> ")
        assert "Traceback" not in answer
        return map(int, re.search(r"prompt (\d+) \((\d+) computed\)", answer).groups())

    begin = screen.read_until("> ")
    assert "m: " in begin
    assert "context of 20000 tokens. /help lists the commands." in " ".join(begin.split())
    screen.type("/help\n")
    shown = screen.read_until("> ")
    assert all(word in shown for word in ("/help", "/reset", "/exit", "Ctrl-C"))
    first, computed = stopped_answer("hi")
    assert computed == first
    second, computed = stopped_answer("hi")
    # The text that was written before Ctrl-C is in the conversation and in the cache.
    assert computed <= second - first - len("xxxxxxx")
    time.sleep(0.5)  # until readline waits for a key, after it has shown the prompt
    screen.type("\x03")
    screen.read_until("/exit or Ctrl-D ends the chat.")
    screen.type("/what\n")
    screen.read_until("There is no command /what")
    screen.type("/reset\n")
    screen.read_until("The conversation is forgotten.")
    again, computed = stopped_answer("hi")
    assert again == computed == first
    screen.type("/exit\n")
    assert screen.wait() == 0
    screen = pseudo_terminal.PseudoTerminal(command, ENVIRONMENT)
    screen.read_until("> ")
    screen.type("\x04")
    assert screen.wait() == 0


def test_a_pipe(tmp_path):
    folder = save_chat_model(tmp_path / "m")
    done = subprocess.run(
        [*COMMAND, str(folder), "--max-new-tokens", "8"], input="the fox\nthe dog\n",
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert len(done.stderr.splitlines()) == 2


def test_the_result_of_a_call_is_typed_and_read(tmp_path):
    pytest.importorskip("llguidance")
    (tmp_path / "functions.json").write_text('[{"name": "now"}]', encoding="utf-8")
    folder = save_chat_model(tmp_path / "m", context=1024)
    screen = pseudo_terminal.PseudoTerminal(
        [*COMMAND, str(folder), "--functions", str(tmp_path / "functions.json"), "--constrained"],
        ENVIRONMENT,
    )
    screen.read_until("> ")
    screen.type("the time?\n")
    first = screen.read_until("result of now (empty: none)> ")
    assert "call: now {}\r\nvalid\r\n" in first
    screen.type("noon\n")
    second = screen.read_until("result of now (empty: none)> ")
    (before, _), (after, new) = (
        map(int, re.search(r"prompt (\d+) \((\d+) computed\)", shown).groups())
        for shown in (first, second)
    )
    assert 0 < new < 60 < before < after  # it read the call and the result
    screen.type("\n")  # no result: the next message
    screen.read_until("> ")
    screen.type("/exit\n")
    assert screen.wait() == 0
