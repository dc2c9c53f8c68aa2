"""The laws of the recipe rule, for made-up constants and for those that are in use."""

import math
import random
from pathlib import Path

import pytest

import mobilellm.optim
from mobilellm.optim.recipe_rule import RULES, RecipeRule, Setting

CONF = Path(__file__).parents[2] / "conf"
REFERENCE = Setting(tokens=1e6, width=100, depth=10)
RANGES = {"tokens": (1e5, 1e7), "width": (50, 200), "depth": (5, 20), "step": (10, 1e5)}


def made_up(**changes):
    """A rule whose results can be calculated in the head."""
    values = {
        "reference": REFERENCE, "step": 1000, "step_exponent": 0.5, "learning_rate": 0.01,
        "exponents": {"tokens": 0, "width": -1, "depth": 0, "step": 0}, "fitted": RANGES,
        "schedule": "wsd",
    }  # fmt: skip
    return RecipeRule(**(values | changes))


def drawn(seed):
    """A rule, a setting and tokens per step at random, within the range of the grid."""
    draw = random.Random(seed)
    rule = made_up(
        step=10 ** draw.uniform(1, 6),
        step_exponent=draw.uniform(0, 0.9),
        learning_rate=10 ** draw.uniform(-5, 0),
        exponents={name: draw.uniform(-1, 1) for name in ("tokens", "width", "depth", "step")},
    )
    setting = Setting(
        tokens=10 ** draw.uniform(5, 7), width=draw.randint(8, 8192), depth=draw.randint(1, 100)
    )
    return rule, setting, 10 ** draw.uniform(1, 5)


def test_examples():
    """Four times the tokens: twice the step; half the width: twice the rate."""
    rule = made_up()
    assert rule.best_step(1e6) == 1000
    assert rule.best_step(4e6) == pytest.approx(2000)
    assert rule.best_rate(REFERENCE, 1000) == 0.01
    assert rule.best_rate(Setting(tokens=4e6, width=50, depth=20), 77) == pytest.approx(0.02)
    shared = made_up(exponents={"tokens": -0.5, "width": 0, "depth": 1, "step": 0.5})
    assert shared.best_rate(Setting(tokens=4e6, width=1, depth=30), 4000) == pytest.approx(0.03)


@pytest.mark.parametrize("seed", range(50))
def test_the_laws_are_sums_of_logarithms(seed):
    """Each law once more, as a straight line in logarithms."""
    rule, setting, per_step = drawn(seed)
    log = math.log
    step = log(rule.step) + rule.step_exponent * (log(setting.tokens) - log(1e6))
    assert log(rule.best_step(setting.tokens)) == pytest.approx(step, abs=1e-9)
    rate = (
        log(rule.learning_rate)
        + rule.exponents["tokens"] * (log(setting.tokens) - log(1e6))
        + rule.exponents["width"] * (log(setting.width) - log(100))
        + rule.exponents["depth"] * (log(setting.depth) - log(10))
        + rule.exponents["step"] * (log(per_step) - log(rule.step))
    )
    assert log(rule.best_rate(setting, per_step)) == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_tokens_of_steps_is_the_inverse_of_the_number_of_steps(seed):
    rule, setting, _ = drawn(seed)
    steps = setting.tokens / rule.best_step(setting.tokens)
    assert rule.tokens_of_steps(steps) == pytest.approx(setting.tokens)


@pytest.mark.parametrize("name", RULES)
def test_few_tokens_and_large_steps_do_not_raise_the_rate(name):
    """A run of 15 thousand tokens with Muon had a rate of 0.12, and diverged."""
    rule = RULES[name]
    (fewest, _), (_, largest) = rule.fitted["tokens"], rule.fitted["step"]
    edge = rule.best_rate(Setting(tokens=fewest, width=96, depth=6), largest)
    for tokens, step in ((fewest / 1000, largest), (fewest, 64 * largest), (1, 1e9)):
        assert rule.best_rate(Setting(tokens=tokens, width=96, depth=6), step) <= edge * 1.05


def test_outside_names_each_quantity_that_the_grid_does_not_contain():
    rule = made_up()
    assert list(rule.outside(REFERENCE)) == []
    assert list(rule.outside(Setting(tokens=1e5, width=200, depth=5))) == [], "ends are inside"
    assert list(rule.outside(Setting(tokens=2.5e9, width=576, depth=10))) == [
        "tokens 2,500,000,000 (fitted from 100,000 to 10,000,000)",
        "width 576 (fitted from 50 to 200)",
    ]
    assert list(rule.outside(Setting(tokens=1e6, width=100, depth=4))) == [
        "depth 4 (fitted from 5 to 20)"
    ]


@pytest.mark.parametrize("name", RULES)
def test_the_rules_in_use_are_complete(name):
    """Whatever their numbers are: known quantities, a reference inside the grid, real choices."""
    rule = RULES[name]
    assert callable(getattr(mobilellm.optim, name))
    assert (CONF / f"optimizer/{name}.yaml").exists()
    assert (CONF / f"schedule/{rule.schedule}.yaml").exists()
    quantities = rule.reference.values()
    assert rule.exponents.keys() == {*quantities, "step"}
    assert rule.fitted.keys() == {*quantities, "step"}
    assert list(rule.outside(rule.reference)) == []
    assert rule.step_exponent < 1, "with more tokens, there are more steps"
    assert 0 < rule.best_rate(rule.reference, rule.step) == rule.learning_rate
