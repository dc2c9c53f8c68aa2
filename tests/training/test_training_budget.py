"""Budgets: which limit ends a run, and how far it has come."""

import pytest

from mobilellm.training.intervals import Intervals
from mobilellm.training.training_budget import TrainingBudget


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_tokens": 1000}, 10),
        ({"max_tokens": 1099}, 10),
        ({"max_tokens": 1e3}, 10),
        ({"max_steps": 7}, 7),
        ({"max_tokens": 1000, "max_steps": 7}, 7),
        ({"max_tokens": 500, "max_steps": 7}, 5),
        ({"max_seconds": 3.0}, None),
        ({"max_seconds": 3.0, "max_steps": 2}, 2),
    ],
)
def test_total_steps(limits, steps):
    assert TrainingBudget(tokens_per_step=100, **limits).total_steps == steps


def test_progress_is_the_largest_share():
    budget = TrainingBudget(tokens_per_step=100, max_tokens=1000, max_seconds=60.0)
    assert budget.progress(0) == 0.0
    assert budget.progress(5, 6.0) == 0.5
    assert budget.progress(5, 45.0) == 0.75
    assert budget.progress(10, 0.0) == 1.0
    assert budget.progress(11, 99.0) == 1.0


@pytest.mark.parametrize("total", [1, 3, 7, 49, 488])
def test_a_run_ends_exactly_at_its_last_step(total):
    budget = TrainingBudget(tokens_per_step=10, max_steps=total)
    assert not budget.is_spent(total - 1)
    assert budget.is_spent(total)


def test_time_ends_a_run():
    budget = TrainingBudget(tokens_per_step=1, max_seconds=2.0)
    assert not budget.is_spent(10**9, 1.9)
    assert budget.is_spent(1, 2.0)


def test_bad_budgets_are_refused():
    with pytest.raises(ValueError, match="a run needs an end; give max_tokens, max_steps or max_s"):
        TrainingBudget(tokens_per_step=1)
    with pytest.raises(
        ValueError, match="max_steps=0 must be a whole number of at least 1; null sets no limit"
    ):
        TrainingBudget(tokens_per_step=1, max_steps=0)
    with pytest.raises(ValueError, match=r"max_tokens=99 must be at least one step, tokens_per_s"):
        TrainingBudget(tokens_per_step=100, max_tokens=99)


def test_bad_intervals_are_refused():
    with pytest.raises(ValueError, match="log_steps=0 must be a whole number of at least 1"):
        Intervals(log_steps=0)
    with pytest.raises(
        ValueError, match="validation_steps=-1 must be a whole number of at least 1"
    ):
        Intervals(validation_steps=-1)
