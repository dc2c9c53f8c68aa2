"""`mobilellm judge` with two models, and a server on this machine as judge."""

import json

import pytest
from chat_models import save_chat_model
from stub_judge import answers_in, completion, judge_server

from mobilellm.commands import judge

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
        code, _, err = run(capsys, folders, url, "--out", tmp_path / "out1")
        assert code == 2 and "is the result of other models or of another judge" in err


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
