"""Asking a judge: what is sent, what is tried again, and what its verdicts mean."""

import itertools
import json
import socket

import pytest
from stub_judge import answers_in, completion, judge_server

from mobilellm.data.conversations.turns import Turn
from mobilellm.evaluation.judge.client import ChatClient
from mobilellm.evaluation.judge.question import question, read_verdict
from mobilellm.evaluation.judge.replies import FILE, Replies
from mobilellm.evaluation.judge.win_rate import Judgement, win_rate_record

TURNS = [Turn(role="user", text="Why is the sky blue?")]


def client(url, **changes):
    return ChatClient(url=url, **{"model": "judge", "wait_seconds": 0.01, **changes})


def test_the_question_is_sent_and_the_reply_returned():
    with judge_server(lambda request: (200, completion("so [[B]]"))) as (url, requests):
        messages = question(TURNS, "one", "two")
        assert client(url, key="secret").ask(messages) == "so [[B]]"
        assert client(f"{url}/").ask(messages) == "so [[B]]"
    assert [one["path"] for one in requests] == ["/v1/chat/completions"] * 2
    assert requests[0]["headers"]["Authorization"] == "Bearer secret"
    assert "Authorization" not in requests[1]["headers"]
    assert (requests[0]["model"], requests[0]["temperature"]) == ("judge", 0)
    assert requests[0]["messages"] == messages
    assert answers_in(requests[0]) == ("one", "two")
    assert "user: Why is the sky blue?" in messages[-1]["content"]
    assert "secret" not in repr(client(url, key="secret"))


def test_a_busy_server_is_asked_again():
    statuses = iter([503, 429, 200])
    with judge_server(lambda request: (next(statuses), completion("[[A]]"))) as (url, requests):
        assert client(url).ask(question(TURNS, "a", "b")) == "[[A]]"
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("status", "body", "tries", "message"),
    [
        (401, "no key", 1, r"refuses the request \(401 Unauthorized: no key\); check --judge"),
        (500, "", 4, "did not answer in 4 tries .500"),
        (200, "<html>", 1, r"did not answer as an OpenAI-compatible server does \(<html>\)"),
        (200, '{"choices": []}', 1, "did not answer as an OpenAI-compatible server"),
    ],
)
def test_other_answers_are_errors(status, body, tries, message):
    with judge_server(lambda request: (status, body)) as (url, requests):
        with pytest.raises(ValueError, match=message):
            client(url).ask(question(TURNS, "a", "b"))
        assert len(requests) == tries
    with pytest.raises(ValueError, match="did not answer in 4 tries"):
        client(url).ask(question(TURNS, "a", "b"))  # the server has stopped
    with pytest.raises(ValueError, match="--url localhost:8000 is not an address such as http"):
        client("localhost:8000")


def test_a_server_is_reachable_whatever_it_answers():
    with judge_server(lambda request: (200, completion("[[A]]"))) as (url, requests):
        client(url).check_reachable()  # it does not list its models
    assert not requests
    with pytest.raises(ValueError, match=rf"--url {url} cannot be reached \(.*refused\); st"):
        client(url).check_reachable()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"cannot be reached \(timed out\)"):
            client(url, timeout_seconds=0.1).check_reachable()


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("[[A]]", "A"), ("not [[A]] but [[ b ]].", "B"), ("[[Tie]]", "tie"), ("A", None), ("", None)],
)
def test_the_last_verdict_counts(reply, verdict):
    assert read_verdict(reply) == verdict


def test_points_count_both_orders():
    found = {
        (one, other): (Judgement(0, one, other).points, Judgement(0, one, other).is_contradictory)
        for one, other in itertools.product(("A", "B", "tie"), repeat=2)
    }
    # With A and B exchanged, B means the first model.
    assert found == {
        ("A", "B"): (1, False), ("B", "A"): (0, False), ("tie", "tie"): (0.5, False),
        ("A", "A"): (0.5, True), ("B", "B"): (0.5, True), ("A", "tie"): (0.75, False),
        ("tie", "B"): (0.75, False), ("B", "tie"): (0.25, False), ("tie", "A"): (0.25, False),
    }  # fmt: skip


def test_the_win_rate_counts_ties_as_half():
    verdicts = [(0, "A", "B"), (0, "A", "A"), (2, "B", "A"), (1, "A", "tie"), (1, None, "B")]
    given = [*(Judgement(*one) for one in verdicts), Judgement(1, None, None)]
    record = win_rate_record(given)
    assert record["win_rate"] == pytest.approx((1 + 0.5 + 0 + 0.75) / 4)
    counts = ("pairs", "wins", "ties", "losses", "contradictory", "without_verdict")
    assert [record[name] for name in counts] == [4, 2, 1, 1, 1, 2]
    low, high = record["win_rate_interval"]
    assert low < record["win_rate"] < high
    sure = win_rate_record([Judgement(n, "A", "B") for n in range(5)])
    assert sure["win_rate"] == 1 and 0.5 < sure["win_rate_interval"][0] < 0.6
    with pytest.raises(ValueError, match="none of the 1 replies of the judge has a verdict"):
        win_rate_record([Judgement(0, None, "A")])


def test_no_question_is_asked_twice(tmp_path):
    asked = []
    for judge in ("x", "x", "y"):
        replies = Replies(tmp_path, judge, lambda messages: asked.append(messages) or "[[A]]")
        for order in (("a", "b"), ("b", "a"), ("a", "b")):
            assert replies.reply(question(TURNS, *order)) == "[[A]]"
        replies.save()
    assert len(asked) == 4  # both orders, for both judges
    (tmp_path / FILE).write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"judge_replies.json is damaged"):
        Replies(tmp_path, "x", lambda messages: "")
