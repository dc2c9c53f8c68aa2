"""Preferences in the layouts of known datasets, and which of their turns are trained."""

import pytest

from mobilellm.data.conversations.preferences import read_preference

ASKED = {"role": "user", "content": "the fox?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("jumps", "sleeps"))
MORE = [{"role": "user", "content": "and then?"}, {"role": "assistant", "content": "runs"}]
ROWS = {
    "text": {"prompt": "the fox?", "chosen": "jumps", "rejected": "sleeps"},
    "messages": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "whole": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "prompt twice": {"prompt": "the fox?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "sharegpt": {name: [{"from": "human", "value": "the fox?"}, {"from": "gpt", "value": answer}]
                 for name, answer in (("chosen", "jumps"), ("rejected", "sleeps"))},
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_answers_after_the_prompt_are_trained(row):
    preference = read_preference(row, "row 1")
    for one, answer in ((preference.chosen, "jumps"), (preference.rejected, "sleeps")):
        assert [turn.text for turn in one.turns] == ["the fox?", answer]
        assert [one.trains(n) for n in range(2)] == [False, True]
    assert preference.chosen.split_key() == preference.rejected.split_key()
    assert preference.chosen.key() != preference.rejected.key()
    assert not preference.is_undecided


def test_common_turns_belong_to_the_prompt_and_later_ones_to_the_answer():
    row = {"chosen": [ASKED, GOOD, *MORE], "rejected": [ASKED, GOOD, MORE[0], BAD]}
    preference = read_preference(row, "row 1")
    assert preference.chosen.prompt_turns == 3
    row = {"system": "be kind", "tools": [{"name": "wolf"}], "prompt": "the fox?",
           "chosen": [GOOD, *MORE], "rejected": "sleeps"}  # fmt: skip
    preference = read_preference(row, "row 1")
    assert preference.chosen.turns[0].role == "system"
    assert [preference.chosen.trains(n) for n in range(5)] == [False, False, True, False, True]
    assert preference.rejected.functions == {"wolf"}


def test_equal_answers_are_undecided():
    row = {"prompt": "the fox?", "chosen": "jumps", "rejected": "jumps"}
    assert read_preference(row, "row 1").is_undecided


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "row 7 has no prompt"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "int in column 'chosen'"),
        ({"chosen": [ASKED], "rejected": [ASKED, BAD]}, "no turn of the assistant .* in chosen"),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, MORE[0]]}, "in rejected after what both"),
    ],
)
def test_rows_that_are_no_preferences_are_refused(row, match):
    with pytest.raises(ValueError, match=match):
        read_preference(row, "row 7")
