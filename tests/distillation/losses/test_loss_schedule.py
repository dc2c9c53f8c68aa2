"""Weights and temperatures that change while a run goes on."""

import math
from itertools import pairwise

import pytest

from mobilellm.distillation.losses.schedule import Ramp, check_scheduled, value_at


def test_a_number_stays():
    assert [value_at(3, progress) for progress in (0.0, 0.5, 1.0)] == [3.0] * 3
    assert isinstance(value_at(3, 0.0), float)


def test_a_ramp_is_straight_between_its_shares_and_constant_outside():
    ramp = Ramp(start=2.0, end=6.0, begin=0.2, until=0.6)
    values = [value_at(ramp, progress / 10) for progress in range(-1, 12)]
    assert values[:4] == [2.0] * 4
    assert values[7:] == [6.0] * 6
    steps = [after - before for before, after in pairwise(values[3:8])]
    assert steps == pytest.approx([1.0] * 4)
    down = Ramp(start=1.0, end=0.0)
    assert [value_at(down, share) for share in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": 0.5, "until": 0.5}, r"begin=0.5 and until=0.5 must be shares of the budget"),
        ({"begin": -0.1}, "0 <= begin < until <= 1"),
        ({"until": 1.1}, "0 <= begin < until <= 1"),
        ({"start": math.inf}, "start=inf must be a finite number"),
        ({"end": math.nan}, "end=nan must be a finite number"),
    ],
)
def test_ramps_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        Ramp(**({"start": 1.0, "end": 0.0} | options))


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "1", None, Ramp(start=1, end=-1)])
def test_what_is_no_weight(value):
    with pytest.raises(ValueError, match=r"weight=.* must be (a (finite )?number of )?at least 0"):
        check_scheduled("weight", value)


def test_zero_is_a_weight_and_no_temperature():
    check_scheduled("weight", 0)
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        check_scheduled("temperature", 0, positive=True)
