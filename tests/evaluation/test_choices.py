"""Measures of choices against closed forms and naive versions."""

import math

import numpy as np
import pytest

from mobilellm.evaluation.choices import (
    NORMALIZATIONS,
    ChoiceScores,
    accuracy,
    answer_bits,
    chance,
    probability_margin,
)


def question(values, right=(0,), characters=None, num_bytes=None, unconditional=None):
    count = len(values)
    return ChoiceScores(
        log_likelihoods=tuple(values),
        unconditional=unconditional,
        characters=tuple(characters or [1] * count),
        num_bytes=tuple(num_bytes or [1] * count),
        right=tuple(right),
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("choices", [2, 3, 4, 5])
def test_equal_scores_of_all_choices_give_exactly_chance(normalization, choices):
    """A constant model would be right on all of BLiMP, whose first choice is the right one."""
    for right in range(choices):
        made = question([-7.0] * choices, [right], unconditional=(-3.0,) * choices)
        assert accuracy(made, normalization) == 1 / choices == made.chance


def test_a_tie_counts_only_if_it_includes_the_right_answer():
    assert accuracy(question([-1, -1, -2], [0])) == 0.5
    assert accuracy(question([-1, -1, -2], [1])) == 0.5
    assert accuracy(question([-1, -1, -2], [2])) == 0
    assert accuracy(question([-1, -1, -1], [0, 2])) == pytest.approx(2 / 3)


def test_rounding_does_not_decide():
    assert accuracy(question([-10, -10 - 5e-5], [1])) == 0.5
    assert accuracy(question([-10, -10 - 2e-3], [1])) == 0
    # Per character, the difference that rounding can make is as much smaller.
    long = question([-100, -100.002], [1], characters=[50, 50], num_bytes=[50, 50])
    assert accuracy(long, "characters") == accuracy(long, "bytes") == 0


def test_without_ties_the_best_choice_is_numpys():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(2, 6))
        values, empty = -rng.exponential(20, count), -rng.exponential(20, count)
        sizes = rng.integers(1, 40, count)
        right = int(rng.integers(count))
        made = question(values, [right], sizes.tolist(), (2 * sizes).tolist(), tuple(empty))
        for normalization, scores in (
            ("none", values),
            ("characters", values / sizes),
            ("bytes", values / sizes),
            ("unconditional", values - empty),
        ):
            assert accuracy(made, normalization) == float(np.argmax(scores) == right)


def test_characters_and_bytes_differ_for_other_scripts():
    """acc_norm of the harness divides by characters; four Cyrillic letters are eight bytes."""
    answers = ["мост", "bridges"]
    made = question(
        [-8.0, -10.0], [0], [len(a) for a in answers], [len(a.encode()) for a in answers]
    )
    assert accuracy(made, "characters") == 0  # -8/4 < -10/7
    assert accuracy(made, "bytes") == 1  # -8/8 > -10/7


def test_bits_are_those_of_the_right_answer():
    made = question([-3 * math.log(2), -1], [0], num_bytes=[6, 2])
    assert answer_bits(made) == (pytest.approx(3), 6)
    several = question([-4 * math.log(2), -math.log(2)], [0, 1], num_bytes=[8, 1])
    assert answer_bits(several) == (pytest.approx(4), 8)  # 0.5 bits per byte, against 1


def test_margin_is_a_difference_of_probabilities():
    made = question(np.log([0.5, 0.3, 0.2]) - 900, [0])
    assert probability_margin(made) == pytest.approx(0.2)
    assert probability_margin(question(np.log([0.2, 0.3, 0.5]), [0])) == pytest.approx(-0.3)
    assert probability_margin(question(np.log([0.2, 0.3, 0.5]), [0, 1])) == pytest.approx(0)
    assert probability_margin(question([-4.0], [0])) == 1


def test_chance_is_the_mean_over_questions():
    assert chance([question([0, 0]), question([0, 0, 0, 0])]) == (1 / 2 + 1 / 4) / 2


def test_missing_values_are_refused():
    with pytest.raises(ValueError, match="were not measured; measure them"):
        accuracy(question([0, 0]), "unconditional")
    with pytest.raises(ValueError, match=r"right answers are \[2\].*numbered from 0 to 1"):
        question([0, 0], [2])
    with pytest.raises(ValueError, match="give one of each per choice"):
        question([0, 0], characters=[1])
