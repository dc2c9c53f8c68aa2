"""`mobilellm evaluate --tasks api_calling,chat`: options, results, continuing, refusals."""

import json

import pytest
from chat_models import save_chat_model
from tiny_tokenizers import make_byte_level

from mobilellm.commands import evaluate
from mobilellm.pipeline import conversation_tasks

TOOLS = [
    {"name": "now", "parameters": {"type": "object", "properties": {}}},
    {"name": "set", "parameters": {"type": "object", "properties": {"x": {"enum": [1, 2]}}}},
]


def talk(name, *, tools=TOOLS, **arguments):
    call = json.dumps({"name": name, "arguments": arguments})
    turns = [("human", f"the fox {name}"), ("function_call", call), ("observation", "1"),
             ("gpt", "the lazy dog")]  # fmt: skip
    return {"conversations": [{"from": a, "value": b} for a, b in turns], "tools": tools}


CHAT = {"prompt": "the quick", "completion": "brown fox"}
HELD_OUT = [talk("now"), CHAT, talk("set", x=1), CHAT]
TRAIN = [*HELD_OUT[:2], talk("now", tools=TOOLS[:1]), CHAT | {"completion": "bad wolf"}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / "held_out.jsonl", HELD_OUT), write(tmp_path / "train.jsonl", TRAIN)]


@pytest.fixture
def models(tmp_path):
    for seed, name in enumerate("ab"):
        folder = tmp_path / name / "model"
        save_chat_model(folder, seed=seed, context=1024)
        (tmp_path / name / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    return [tmp_path / "a", tmp_path / "b"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def command(model, files, *more):
    return (*model, "--tasks", "api_calling,chat", "--conversations", files[0],
            "--max-new-tokens", 40, *more)  # fmt: skip


def test_measures_and_baselines_are_in_the_json_and_kept(capsys, models, files):
    arguments = command(models[:1], files, "--train", files[1], "--constrained")
    code, out, _ = run(capsys, *arguments, "--format", "json")
    tasks = json.loads(out)["tasks"]
    assert code == 0 and set(tasks) == {"api_calling", "chat"}
    entry = tasks["api_calling"]
    assert (entry["documents"], entry["calls"], entry["replies"]) == (2, 2, 2)
    # What is held out does not count as training data: only now was seen.
    for name in ("intent", "structure", "valid_call", "needless_call", "rouge_1", "rouge_l",
                 "parser_nats_per_token", "assistant_nats_per_token", "intent_seen",
                 "intent_unseen"):  # fmt: skip
        low, high = entry[f"{name}_interval"]
        assert low <= entry[name] <= high
    assert set(entry["variants"]) == {"constrained", "random", "majority"}
    assert entry["variants"]["majority"]["intent_seen"] == 1
    assert entry["variants"]["majority"]["structure"] == 0.5
    assert entry["variants"]["majority"]["rouge_1"] == 1
    # An untrained model cannot write calls, but the constraint leaves it no choice.
    assert entry["intent"] == 0 and entry["variants"]["constrained"]["valid_call"] == 1
    assert "valid_call" not in tasks["chat"] and tasks["chat"]["documents"] == 2
    stored = json.loads((models[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert stored["tasks"] == tasks
    samples = json.loads((models[0] / "evaluation_documents.json").read_text(encoding="utf-8"))
    (first, *_) = samples["tasks"]["api_calling"]["samples"]
    assert first["place"] == f"{files[0]} line 1" and "constrained" in first


def test_finished_tasks_are_not_repeated_unless_a_setting_differs(
    capsys, models, files, monkeypatch
):
    run(capsys, *command(models[:1], files))
    evaluated = []
    original = conversation_tasks.evaluate_conversations
    monkeypatch.setattr(
        conversation_tasks, "evaluate_conversations",
        lambda model, task, *a, **k: evaluated.append(task.name) or original(model, task, *a, **k),
    )  # fmt: skip
    _, out, _ = run(capsys, *command(models[:1], files))
    assert evaluated == [] and "api_calling of" in out
    run(capsys, *command(models[:1], files, "--constrained"))
    assert evaluated == ["api_calling"]
    run(capsys, *command(models[:1], files, "--train", files[1]))
    assert evaluated == ["api_calling", "api_calling", "chat"]


def test_two_models_are_compared_in_a_table_of_80_columns(capsys, models, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(
        capsys, *command(models, files, "--train", files[1], "--constrained", "--out",
                         models[0] / "out"),
    )  # fmt: skip
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert out.startswith("Which measures could tell these models apart")
    for text in ("loss replies", "  constrained", "majority", "intent unseen", "chat: 2 dialogues"):
        assert text in out
    assert "plain text" not in out


def test_a_prepared_folder_says_what_was_trained(capsys, models, files, tmp_path):
    folder = tmp_path / "prepared"
    folder.mkdir()
    write(folder / "validation.jsonl", HELD_OUT)
    (folder / "functions.json").write_text('["now"]', encoding="utf-8")
    _, out, _ = run(capsys, *command(models[:1], [folder], "--format", "json"))
    entry = json.loads(out)["tasks"]["api_calling"]
    assert "intent_seen" in entry and "intent_unseen" in entry


def test_wrong_use_is_refused_before_work_starts(capsys, models, files, tmp_path):
    plain = make_byte_level(tmp_path / "plain")
    chat = write(tmp_path / "chat.jsonl", [CHAT])
    bad = write(tmp_path / "bad.jsonl", [talk("f", tools=[{"name": "f", "parameters": {
        "properties": {"x": {"type": "no"}}}}])])  # fmt: skip
    call, given = ("--tasks", "api_calling"), ("--conversations", files[0])
    for arguments, message in (
        (call, "--tasks api_calling needs conversations that were not trained on; give --conver"),
        ((*call, "--conversations", tmp_path / "no"), "no does not exist"),
        ((*call, "--conversations", chat), "has no conversations with functions, on which api"),
        ((*call, "--conversations", bad), "bad.jsonl line 1: the parameters of function 'f' are"),
        ((*call, *given, "--chat"), "--chat has no effect without a task of the harness"),
        ((*call, *given, "--tools", "x"), "tools='x' must be auto or template or text"),
        ((*call, *given, "--max-new-tokens", 0), "max_new_tokens=0"),
        ((*call, *given, "--tokenizer", plain), "has no chat template"),
        ((*call, *given, "--tools", "template"), "does not use both tools and tool_calls"),
        (("--tasks", "chat", *given, "--constrained"), "--constrained has no effect without --tas"),
        (("--text", files[0], *given), "has no effect without --tasks api_calling or chat"),
    ):  # fmt: skip
        code, out, err = run(capsys, models[0], *arguments)
        assert (code, out) == (2, "")
        assert message in next(line for line in err.splitlines() if line.startswith("error: "))
    assert not (models[0] / "evaluation.json").exists()
