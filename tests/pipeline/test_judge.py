"""`mobilellm judge` with two models, and a server on this machine as judge."""

import json

import pytest
from chat_models import save_chat_model
from stub_judge import answers_in, completion, judge_server

from mobilellm.commands import judge
from mobilellm.pipeline import judge as pipeline

ROWS = [
    {"prompt": "the fox", "completion": "brown"},
    {"messages": [{"role": "user", "content": "the dog"},
                  {"role": "assistant", "content": "runs away from the big bad wolf again"},
                  {"role": "user", "content": "and"}, {"role": "assistant", "content": "lazy"}]},
]  # fmt: skip


def prefer_longer(request):
    """A judge whose preference for an answer can be computed again."""
    first, second = (0 if one == "(empty)" else len(one) for one in answers_in(request))
    verdict = "tie" if first == second else "A" if first > second else "B"
    return 200, completion(f"It is longer. [[{verdict}]]")


@pytest.fixture
def folders(tmp_path):
    made = [
        save_chat_model(tmp_path / name, seed=seed, context=512) for seed, name in enumerate("ab")
    ]
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "chats.jsonl").write_text(text, encoding="utf-8")
    return made


def run(capsys, folders, url, *more):
    arguments = [*folders, "--conversations", folders[0].parent / "chats.jsonl", "--url", url,
                 "--judge", "longer", "--max-new-tokens", 8, *more]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        judge.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_two_models_and_the_replies_of_the_data(capsys, folders, tmp_path):
    with judge_server(prefer_longer) as (url, requests):
        for models, others in (
            (folders, str(folders[1])),
            (folders[:1], "the replies of the data"),
        ):
            out = tmp_path / f"out{len(models)}"
            arguments = (models, url, "--out", out, "--format", "json")
            code, text, _ = run(capsys, *arguments)
            record = json.loads(text)
            assert code == 0 and record["second"] == others and record["pairs"] == 3
            assert json.loads((out / "judge.json").read_text(encoding="utf-8")) == record
            for pair in record["answers"]:
                first, second = len(pair["first"]), len(pair["second"])
                assert pair["points"] == (0.5 if first == second else float(first > second))
            expected = sum(pair["points"] for pair in record["answers"]) / 3
            assert record["win_rate"] == pytest.approx(expected)
            asked = len(requests)
            assert run(capsys, *arguments)[1] == text and len(requests) == asked
        expected = [turn["content"] for turn in ROWS[1]["messages"] if turn["role"] == "assistant"]
        assert [pair["second"] for pair in record["answers"]] == ["brown", *expected]
        code, text, _ = run(capsys, folders, url, "--limit", 1)
        # A single tied dialogue has no interval.
        assert code == 0 and "1 pairs: " in text and "wins 50.0 %\n" in text
    # Without the server, a finished comparison can still be shown.
    assert json.loads(run(capsys, *arguments)[1]) == record


def test_the_result_of_another_comparison_is_not_overwritten(capsys, folders, tmp_path):
    chats, out = folders[0].parent / "chats.jsonl", ("--out", tmp_path / "judged")
    with judge_server(prefer_longer) as (url, _):
        assert run(capsys, folders, url, *out)[0] == 0
        before = (tmp_path / "judged/judge.json").read_bytes()
        text = chats.read_text(encoding="utf-8")
        for rows, models, more, differing in (
            (text, folders[:1], (), "second"),
            (text, folders, ("--judge", "other"), "judge"),
            (text, folders, ("--limit", 1), "conversations, conversations_hash"),
            (text.replace("brown", "white"), folders, (), "conversations_hash"),
            (text, folders, ("--max-new-tokens", 9), "max_new_tokens"),
        ):
            chats.write_text(rows, encoding="utf-8")
            code, _, err = run(capsys, models, url, *out, *more)
            message = f"is the result of another comparison ({differing} differ), and is not overw"
            assert code == 2 and message in err
        chats.rename(chats.with_name("same.jsonl"))
        more = ("--conversations", chats.with_name("same.jsonl"), "--limit", 2)
        assert run(capsys, folders, url, *out, *more)[0] == 0
        after = (tmp_path / "judged/judge.json").read_bytes()
        assert after.replace(b"same.jsonl", b"chats.jsonl") == before
        (tmp_path / "judged/judge.json").write_text("{", encoding="utf-8")
        code, _, err = run(capsys, folders, url, *out, *more)
        assert code == 2 and "judge.json is not a result of this command" in err


def test_what_cannot_work_is_said_before_any_answer(capsys, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "write_answers", lambda *_, **__: pytest.fail("answers"))
    with judge_server(prefer_longer) as (url, _):
        for out, message in (
            (tmp_path / "chats.jsonl", "chats.jsonl is a file, not a folder; give another path"),
            ("/proc/judged", "--out=/proc/judged cannot be written ("),
        ):
            code, _, err = run(capsys, folders, url, "--out", out)
            assert code == 2 and message in err
    code, _, err = run(capsys, folders, url, "--out", tmp_path / "judged")
    assert code == 2 and f"--url {url} cannot be reached (" in err
    assert not (tmp_path / "judged").exists()


def test_a_judge_that_prefers_a_position_finds_only_ties(capsys, folders):
    with judge_server(lambda request: (200, completion("[[A]]"))) as (url, _):
        record = json.loads(run(capsys, folders, url, "--format", "json")[1])
    assert (record["win_rate"], record["ties"], record["contradictory"]) == (0.5, 3, 3)


def test_wrong_use_is_refused_before_models_are_loaded(capsys, folders):
    for more, url, message in (
        ((), "ftp://x", "--url ftp://x is not an address such as http://localhost:8000/v1"),
        (("--key-variable", "NOT_SET_AT_ALL"), "http://x/v1", "the environment has no such var"),
        (("--layout", "x"), "http://x/v1", "layout='x' must be"),
    ):
        code, out, err = run(capsys, folders, url, *more)
        assert (code, out) == (2, "") and message in err
    code, _, err = run(capsys, [*folders, folders[0]], "http://x/v1")
    assert code == 2 and "3 models are given; give one or two" in err
