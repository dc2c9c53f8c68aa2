"""Files of prompts are answered: by what, in which rows, and again after an interruption."""

import json

import pytest
from chat_models import save_chat_model

from mobilellm.checkpoint import load_model, save_model
from mobilellm.commands.generate import run
from mobilellm.data.sources.conversations import ConversationData
from mobilellm.data.sources.rationale_data import RationaleData
from mobilellm.files import sole_writer
from mobilellm.inference.loaded_model import load
from mobilellm.pipeline import generate_data

QUESTIONS = [{"question": word * 2, "choices": [word, "dog"], "answer": word}
             for word in ("fox", "jumps", "lazy", "wolf", "brown", "quick", "runs")]  # fmt: skip
SAMPLED = ["--temperature", "1.5", "--seed", "3", "--max-new-tokens", "40", "--batch-size", "2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that ends most of its answers."""
    folder = save_chat_model(tmp_path_factory.mktemp("teacher") / "model", context=400)
    model = load_model(folder)
    model.embedding.weight.data[2] *= 3
    save_model(model, folder)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(folder, rows, name="prompts.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def manifest_of(path):
    return json.loads(path.with_name(f"{path.name}.manifest.json").read_text(encoding="utf-8"))


def test_answers_are_those_of_single_prompts(teacher, tmp_path, capsys):
    data = written(tmp_path, [{"prompt": row["question"]} for row in QUESTIONS])
    out = tmp_path / "answers.jsonl"
    run([str(teacher), "--chat", "--data", data, "--out", str(out), "--max-new-tokens", "40"])
    loaded, expected, cut = load(teacher), [], 0
    for row in QUESTIONS:
        message = {"role": "user", "content": row["question"]}
        answer = loaded.chat([message], 40)
        longer = loaded.chat([message], 41)
        if answer and answer == longer:
            expected.append({"prompt": row["question"], "completion": answer})
        cut += answer != longer
    assert rows_of(out) == expected
    counts = manifest_of(out)["counts"]
    assert (counts["written"], counts["cut_off"]) == (len(expected), cut)
    assert f"{len(expected)} rows" in capsys.readouterr().out


def test_an_interrupted_call_continues_with_the_same_answers(teacher, tmp_path, monkeypatch):
    rows = [{"messages": [{"role": "user", "content": row["question"]}]} for row in QUESTIONS]
    given = [str(teacher), "--chat", "--data", written(tmp_path, rows), *SAMPLED]
    run([*given, "--out", str(tmp_path / "whole.jsonl")])
    answer, calls = generate_data.answer_batch, []

    def fails_at_third(*arguments, batch, **settings):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(*arguments, batch=batch, **settings)

    monkeypatch.setattr(generate_data, "answer_batch", fails_at_third)
    out = tmp_path / "again.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run([*given, "--out", str(out)])
    assert not out.exists()
    with (tmp_path / "again.jsonl.partial").open("a", encoding="utf-8") as file:
        file.write('{"answer": "half a li')
    with pytest.raises(ValueError, match=r"settings.seed differ; give the same settings"):
        run([*given, "--out", str(out), "--seed", "4"])
    run([*given, "--out", str(out)])
    assert calls == [0, 1, 2, 2, 3]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() != b""
    same = {"model", "data", "prompts", "settings", "counts"}
    first, second = manifest_of(tmp_path / "whole.jsonl"), manifest_of(out)
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert sorted(path.name for path in tmp_path.glob("again*")) == [
        "again.jsonl", "again.jsonl.manifest.json",
    ]  # fmt: skip


def test_students_read_what_was_written(teacher, tmp_path):
    data = written(tmp_path, QUESTIONS)
    given = [str(teacher), "--chat", "--data", data, *SAMPLED]
    template = ["--prompt", "{question} ({choices}): why {answer}?"]
    answers, rationales = tmp_path / "answers.jsonl", tmp_path / "rationales.jsonl"
    run([*given, *template, "--out", str(answers)])
    run([*given, *template, "--out", str(rationales), "--column", "rationale", "--limit", "4"])
    tokenizer = str(next(teacher.glob("tokenizer.json")))
    chats = ConversationData(train=str(answers), vocab_size=300, tokenizer=tokenizer)
    asked = [f"{row['question']} ({', '.join(row['choices'])}): why {row['answer']}?"
             for row in QUESTIONS]  # fmt: skip
    for chat in chats.conversations("train"):
        assert [turn.role for turn in chat.turns] == ["user", "assistant"]
        assert chat.turns[0].text in asked
    both = RationaleData(
        train=str(rationales), vocab_size=300, tokenizer=tokenizer, input_column="question",
        label_column="answer", choices_column="choices",
    )  # fmt: skip
    texts = {row["completion"] for row in rows_of(answers)}
    found = [example.targets for example in both.examples("train")]
    assert found and all(targets["rationale"] in texts for targets in found)
    assert {targets["label"] for targets in found} <= {row["answer"] for row in QUESTIONS[:4]}


def test_a_call_of_an_offered_function_is_a_turn_of_the_parser(teacher, tmp_path, monkeypatch):
    call = '{"name": "run", "arguments": {}}'
    monkeypatch.setattr(generate_data, "answer_batch", lambda _, __, prompts, *___, **____: [
        generate_data.Answer(call, 3, is_cut=False) for _ in prompts])  # fmt: skip
    row = {"messages": [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "x"}],
           "tools": [{"name": "run"}]}  # fmt: skip
    out = tmp_path / "calls.jsonl"
    data = written(tmp_path, [row])
    few = ["--max-new-tokens", "40"]
    run([str(teacher), "--chat", "--data", data, "--out", str(out), *few])
    assert rows_of(out)[0]["messages"] == [
        {"role": "user", "content": "fox"}, {"role": "parser", "content": call},
    ]  # fmt: skip


def test_what_is_wrong_is_said_before_anything_is_generated(teacher, tmp_path):
    data, out = written(tmp_path, QUESTIONS), str(tmp_path / "new.jsonl")
    given = [str(teacher), "--chat", "--data", data, "--out", out]
    with pytest.raises(ValueError, match=r"not those of a known layout"):
        run(given)
    with pytest.raises(ValueError, match=r"line 1: the prompt .* braces may name .* question, ch"):
        run([*given, "--prompt", "{title}"])
    with pytest.raises(ValueError, match=r"--prompt='why' must name at least one column"):
        run([*given, "--prompt", "why"])
    with pytest.raises(ValueError, match=r"--out=.* exists; choose another file"):
        run([*given[:-1], data, "--prompt", "{question}"])
    with pytest.raises(ValueError, match=r"--limit has no effect without --data"):
        run([str(teacher), "--limit", "3"])
    with pytest.raises(ValueError, match=r"--data needs a file for the answers"):
        run([str(teacher), "--data", data])
    with pytest.raises(ValueError, match=r"line 1 has the column answer already, which is not ove"):
        run([*given, "--prompt", "{question}", "--column", "answer"])
    for more, message in (
        (["--max-new-tokens", "0"], r"max_new_tokens=0 must be at least 1"),
        (["--max-new-tokens", "400"], r"max_new_tokens=400 leaves no room for a prompt in max_pos"),
        (["--temperature", "-1"], r"temperature=-1.0 must be 0"),
        (["--top-k", "3"], r"top_k=3 has no effect on greedy decoding"),
        (["--device", "mps"], r"device=mps is not available here; use --device cpu"),
        (["--device", "foo"], r"device='foo' is not known; use one of"),
        (["--out", "/proc/a.jsonl"], r"--out=/proc cannot be written \("),
        (["--data", written(tmp_path, [], "empty.jsonl")], r"empty.jsonl has no rows; give at le"),
    ):
        with pytest.raises(ValueError, match=message):
            run([*given, "--prompt", "{question}", *more])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "prompts.jsonl"]


@pytest.mark.parametrize("more", [[], ["--data", "prompts.jsonl", "--out", "answers.jsonl"]])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seed", "3"], r"seed=3 has no effect on greedy decoding; set a temperature above 0"),
        (["--temperature", "1", "--seed", "-1"], r"seed=-1 must lie between 0 and 2\*\*63 - 1"),
        (["--temperature", "1", "--seed", "9" * 23], r"seed=9+ must lie between 0 and 2\*\*63"),
    ],
)
def test_seeds_are_checked_before_a_model_is_loaded(given, more, message):
    with pytest.raises(ValueError, match=message):
        run(["missing", "--prompt", "hi", *given, *more])


def test_the_largest_seed_can_be_used(teacher, tmp_path):
    given = [str(teacher), "--chat", "--data", written(tmp_path, [{"prompt": "fox"}])]
    out = tmp_path / "answers.jsonl"
    run([*given, *SAMPLED, "--seed", str(2**63 - 1), "--out", str(out)])
    assert manifest_of(out)["settings"]["seed"] == 2**63 - 1


def test_a_partial_file_without_answers_is_ignored_and_a_foreign_one_kept(teacher, tmp_path):
    out, partial = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.partial"
    given = [str(teacher), "--chat", "--data", written(tmp_path, [{"prompt": "fox"}]),
             "--max-new-tokens", "40", "--out", str(out)]  # fmt: skip
    partial.write_text("the user's", encoding="utf-8")
    with pytest.raises(ValueError, match=r"answers.jsonl.partial exists without answers.jsonl.par"):
        run(given)
    assert partial.read_text(encoding="utf-8") == "the user's"
    partial.write_text("", encoding="utf-8")
    (tmp_path / "answers.jsonl.partial.json").write_text("{}", encoding="utf-8")
    run(given)
    assert manifest_of(out)["counts"]["too_long"] == 0
    assert not list(tmp_path.glob("*.partial*"))


def test_a_second_process_with_the_same_file_is_refused(teacher, tmp_path):
    out = tmp_path / "answers.jsonl"
    given = [str(teacher), "--chat", "--data", written(tmp_path, [{"prompt": "fox"}]),
             "--max-new-tokens", "40", "--out", str(out)]  # fmt: skip
    with sole_writer("--out", out), pytest.raises(ValueError, match="another process writes"):
        run(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl"]
    run(given)
    assert out.exists()
