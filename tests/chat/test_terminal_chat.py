"""The chat through a pipe, in a terminal, and what it refuses."""

import io
import json
import re
import sys

import pytest
from chat_models import chat_tokenizer, save_chat_model
from tiny_tokenizers import make_constant_model

from mobilellm.chat.terminal import PLAIN, summary_line, without_controls
from mobilellm.checkpoint import save_model
from mobilellm.commands.chat import main
from mobilellm.inference.chat_session import Answer, ChatSession
from mobilellm.inference.loaded_model import load

FUNCTIONS = [{"name": "now", "description": "The time."}, {"name": "today"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat") / "fox", context=1024)


@pytest.fixture
def talk(monkeypatch, capsys):
    """Give the command lines by a pipe; its exit code, stdout and stderr."""

    def run(text, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, error = capsys.readouterr()
        return stop.value.code, out, error

    return run


def test_each_line_of_a_pipe_is_a_message_of_one_conversation(folder, talk):
    settings = {"temperature": 1.0, "seed": 3}
    code, out, error = talk(
        "the fox\n\n  the dog \r\n/reset\nthe fox\n", folder, "--max-new-tokens", 12,
        "--temperature", 1, "--seed", 3,
    )  # fmt: skip
    assert code == 0
    session, messages, expected = ChatSession(load(folder)), [], []
    for message in ("the fox", "  the dog "):
        messages.append({"role": "user", "content": message})
        answer, pieces = session.reply(messages, 12, **settings)
        expected.append("".join(pieces).lstrip())
        messages.append({"role": "assistant", "content": answer.text})
    assert out == "\n\n".join([*expected, expected[0]]) + "\n"
    lines = error.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert lines[2] == "The conversation is forgotten."
    prompts = [re.search(r"prompt (\d+) \((\d+) computed\)", line) for line in lines]
    (first, all_of_it), (_, new), (again, computed) = (p.groups() for p in prompts if p)
    assert first == all_of_it == again == computed
    assert 0 < int(new) < int(first) + 40


def test_a_model_without_a_template_continues_lines(tmp_path, talk):
    tokenizer = chat_tokenizer(tmp_path / "t", template=None)
    [token] = tokenizer.encode("x")
    model = make_constant_model(token, vocab_size=300, bos_token_id=1, eos_token_id=2)
    save_model(model, tmp_path / "m", tokenizer.path)
    code, out, error = talk("\nthe fox\n\nthe dog\n", tmp_path / "m", "--max-new-tokens", 3)
    assert (code, out) == (0, "xxx\n\nxxx\n\nxxx\n")
    notice, summaries = error.split("[", 1)
    assert notice.split() == PLAIN.split()
    # The empty line continued the text and its answer; the last one is a new text.
    lengths = [int(number) for number in re.findall(r"prompt (\d+)", summaries)]
    size = len(tokenizer.encode("the fox"))
    assert lengths == [size, size + 3, len(tokenizer.encode("the dog"))]
    code, _, error = talk("", tmp_path / "m", "--system", "x")
    assert (code, error.splitlines()) == (
        2, ["error: --system needs a chat template, which this model does not have; leave it out"]
    )  # fmt: skip


def test_calls_of_functions_are_shown_and_checked(folder, tmp_path, talk):
    pytest.importorskip("llguidance")
    path = tmp_path / "functions.json"
    path.write_text(json.dumps(FUNCTIONS), encoding="utf-8")
    code, out, error = talk("hi\n", folder, "--functions", path, "--constrained")
    assert code == 0
    call = json.loads(out)
    assert f"call: {call['name']} {{}}\nvalid\n" in error
    path.write_text('{"enum": ["x", "yz"]}', encoding="utf-8")
    code, out, _ = talk("hi\nhi\n", folder, "--schema", path)
    assert code == 0
    assert {json.loads(line) for line in out.split()} <= {"x", "yz"}


def test_a_call_that_is_not_valid_and_text_that_is_no_call(folder, monkeypatch, talk, tmp_path):
    pytest.importorskip("jsonschema")
    path = tmp_path / "functions.json"
    path.write_text(json.dumps(FUNCTIONS), encoding="utf-8")
    texts = iter(['{"name": "now", "arguments": {"x": 1}}', "<tool_call>{", "hello"])

    def reply(self, messages, *arguments, **settings):
        answer = Answer(messages, 0, 5, text=next(texts), end="ended")
        return answer, iter([answer.text])

    monkeypatch.setattr(ChatSession, "reply", reply)
    _, _, error = talk("a\nb\nc\n", folder, "--functions", path)
    first, second, third = error.split("[0 tokens, prompt 5 (0 computed)]\n")[1:]
    assert first.startswith('call: now {"x": 1}\nnot valid: arguments: Additional properties')
    assert second == "call: not valid JSON\n"
    assert third == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "y"], "2 models are given, and the terminal talks with one; give one, or"),
        (["x", "y", "z", "--web"], "3 models are given; --web compares at most two"),
        (["x", "--port", "80"], "--port has no effect without --web; give both, or leave it out"),
        (["x", "--web", "--port", "70000"], "--port 70000 must lie between 0 and 65535"),
        (["x", "--web", "--seed", "1"], "--seed has no effect with --web, where the settings are"),
        (["x", "--web", "--temperature", "0"], "--temperature has no effect with --web"),
        (["x", "--web", "--max-new-tokens", "9"], "--max-new-tokens has no effect with --web"),
        (["x", "--constrained"], "--constrained has no effect without --functions FILE"),
        (["x", "--constrained", "--schema", "s", "--functions", "f"], "both constrain the answers"),
        (["x", "--functions", "missing.json"], "missing.json does not exist; give a JSON file"),
        (["x", "--max-new-tokens", "-1"], "max_new_tokens"),
        (["x", "--temperature", "-1"], "temperature"),
        (["x", "--seed", "1"], "seed=1 has no effect on greedy decoding; set a temperature above"),
        (["x", "--seed", "-1"], "seed=-1 must lie between 0 and 2**63 - 1"),
        (["missing"], "missing"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(arguments, message, talk):
    code, out, error = talk("hi\n", *arguments)
    assert (code, out) == (2, "")
    [line] = error.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_messages_that_are_refused_end_a_pipe(folder, talk):
    code, out, error = talk("/rest\nhi\n", folder)
    assert (code, out) == (2, "")
    assert error == "error: there is no command /rest; use /help, /reset or /exit\n"
    code, out, error = talk("fox " * 3000 + "\n", folder)
    assert (code, out) == (2, "")
    assert "leaves no room for an answer within max_position_embeddings=1024" in error


def test_old_turns_are_dropped_with_a_notice(tmp_path, talk):
    small = save_chat_model(tmp_path / "m", context=128)
    _, out, error = talk("the fox runs\n" * 4, small, "--max-new-tokens", 30)
    assert re.search(r"oldest turns? dropped: the conversation is longer than", error)
    assert out.count("\n\n") >= 3


def test_a_summary_is_one_short_line():
    answer = Answer([], 0, 9999, 9999, new_tokens=999, decode_seconds=998 / 1234, end="limit")
    line = "[999 tokens, 1234 tokens/s, prompt 9999 (9999 computed), cut by --max-new-tokens]"
    assert summary_line(answer) == line


def test_an_answer_cannot_control_the_terminal():
    text = "\x1b[2Ja\tb\nc\x07\x9bé\r"
    assert without_controls(text) == "[2Ja\tb\ncé"
