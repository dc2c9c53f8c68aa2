"""Schedules against their closed forms."""

import math

import pytest

from mobilellm.optim.schedules import (
    constant,
    continue_from_plateau,
    cosine,
    is_decaying,
    rewarmed,
    warmup_stable_decay,
)


def factors(schedule, total):
    return [schedule(step, (step + 1) / total) for step in range(total)]


@pytest.mark.parametrize("total", [10, 97, 1000])
@pytest.mark.parametrize("warmup", [{"warmup_steps": 5}, {"warmup_fraction": 0.2}, {}])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("make", [cosine, warmup_stable_decay])
def test_bounds_peak_and_end(make, total, warmup, final):
    values = factors(make(**warmup, final_fraction=final), total)
    assert values[-1] == pytest.approx(final, abs=1e-12)
    assert all(0.0 <= value <= 1.0 for value in values)
    if "warmup_steps" in warmup:
        assert values[0] == pytest.approx(1 / 5)
        assert values[4] == pytest.approx(1.0)
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_cosine_is_the_closed_form():
    total, warmup, final = 50, 10, 0.1
    for step, value in enumerate(factors(cosine(warmup_steps=warmup, final_fraction=final), total)):
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            share = (step + 1 - warmup) / (total - warmup)
            expected = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))
        assert value == pytest.approx(expected)


def test_steps_and_fraction_say_the_same():
    by_steps = factors(cosine(warmup_steps=20), 100)
    by_fraction = factors(cosine(warmup_fraction=0.2), 100)
    assert by_steps == pytest.approx(by_fraction)


def test_stable_phase_and_linear_decay():
    values = factors(
        warmup_stable_decay(warmup_steps=10, decay_fraction=0.2, final_fraction=0.0), 100
    )
    assert values[9:80] == pytest.approx([1.0] * 71)
    assert values[80:] == pytest.approx([(99 - step) / 20 for step in range(80, 100)])


def test_a_budget_that_ends_within_the_warmup_still_ends_low():
    assert cosine(warmup_steps=1000)(3, 1.0) <= 0.1
    assert warmup_stable_decay(warmup_steps=1000)(3, 1.0) == 0.0


def test_constant():
    assert factors(constant(warmup_steps=2), 4) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("make", [cosine, warmup_stable_decay, constant])
def test_two_warmups_are_refused(make):
    with pytest.raises(ValueError, match="exclude each other; set one of them to null"):
        make(warmup_steps=1, warmup_fraction=0.1)
    with pytest.raises(ValueError, match="warmup_steps=-1 must be a whole number of at least 0"):
        make(warmup_steps=-1)
    with pytest.raises(ValueError, match=r"warmup_fraction=1\.5 must be between 0 and 1"):
        make(warmup_fraction=1.5)
    with pytest.raises(ValueError, match="final_fraction=2 must be between 0 and 1"):
        cosine(final_fraction=2)
    with pytest.raises(ValueError, match=r"decay_fraction=-0\.1 must be between 0 and 1"):
        warmup_stable_decay(decay_fraction=-0.1)


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.5, 1.0])
def test_a_schedule_knows_when_it_leaves_its_plateau(decay):
    schedule = warmup_stable_decay(warmup_steps=1, decay_fraction=decay)
    for total in (7, 10, 40):
        for step in range(1, total):
            progress = (step + 1) / total
            assert is_decaying(schedule, progress) == (schedule(step, progress) < 1.0)
    assert is_decaying(constant(warmup_steps=3), 1.0) is False
    assert is_decaying(cosine(), 0.5) is None


@pytest.mark.parametrize("final", [0.0, 0.1, 0.3])
def test_from_its_plateau_a_schedule_is_not_warmed_up_again(final):
    """Where the warm-up was in steps, nothing changes at all."""
    share = warmup_stable_decay(warmup_fraction=0.05, decay_fraction=0.2, final_fraction=final)
    longer = [continue_from_plateau(share)(step, (step + 1) / 1000) for step in range(8, 1000)]
    assert longer[:791] == [1.0] * 791
    assert longer[791:] == [share(step, (step + 1) / 1000) for step in range(799, 1000)]
    steps = warmup_stable_decay(warmup_steps=5, decay_fraction=0.2, final_fraction=final)
    assert factors(continue_from_plateau(steps), 100)[5:] == factors(steps, 100)[5:]
    assert factors(steps, 100)[5:79] == [1.0] * 74


def test_a_rewarmed_schedule_rises_from_where_it_ended_and_falls_again():
    """The published form: linear from the lowest rate, then the schedule on what is left."""
    schedule = cosine(warmup_steps=4, final_fraction=0.1)
    again = rewarmed(schedule, step=100, progress=0.5)
    values = [again(step, (step + 1) / 200) for step in range(100, 200)]
    assert values[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=1e-3)
    assert values[-1] == pytest.approx(0.1)
    assert values[3:] == sorted(values[3:], reverse=True)
    assert values == pytest.approx([schedule(n, (n + 1) / 100) for n in range(100)])
    slow = rewarmed(cosine(warmup_steps=20, final_fraction=0.2), step=10, progress=0.1)
    assert slow(10, 0.11) == pytest.approx(0.2), "not below the rate at which it ended"
    assert is_decaying(rewarmed(warmup_stable_decay(), step=10, progress=0.5), 0.89) is False
    assert is_decaying(rewarmed(warmup_stable_decay(), step=10, progress=0.5), 0.91) is True
    with pytest.raises(ValueError, match="nothing is left of the budget"):
        rewarmed(schedule, step=10, progress=1.0)
