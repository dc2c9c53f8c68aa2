"""The settings of stages: what they divide, when they begin, and what contradicts itself."""

import pytest
from low_rank_recipe import LowRank
from small_run import make_model

from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.training.training_budget import TrainingBudget

BUDGET = TrainingBudget(max_steps=12, tokens_per_step=128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "given"}, "order=given requires groups"),
        (
            {"order": "forward", "groups": [["blocks.*"]]},
            "order=forward is given as well; remove order",
        ),
        ({"num_stages": 3, "groups": [["blocks.*"]]}, "num_stages=3, but there are 1 groups"),
        ({"order": "forwards"}, "order='forwards' is not known; use one of forward"),
        ({"calibration_tokens": 0}, "calibration_tokens=0 must be a whole number"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CompressionCallback(LowRank(), **options)


def test_groups_say_how_many_stages_there_are():
    groups = [["*.up_proj"], ["*.down_proj", "*.gate_proj"]]
    callback = CompressionCallback(LowRank(), groups=groups)
    config = make_model().config
    callback.check(config, BUDGET)
    plan = LowRank().plan(make_model(), [])
    stages = callback.staged.divide(plan, config, BUDGET)
    assert stages.starts == (0, 6)
    assert [len(group) for group in stages.groups] == [2, 4]


def test_least_sensitive_first():
    callback = CompressionCallback(LowRank(), num_stages=3, order="least_sensitive")
    plan = LowRank().plan(make_model(), [])
    stages = callback.staged.divide(plan, make_model().config, BUDGET)
    # The recipe of the tests expects less error the later a layer comes.
    assert sum(stages.groups, ()) == plan.names[::-1]


def test_a_recipe_of_the_whole_model_has_one_stage():
    config, recipe = make_model().config, StructuredPruning(keep_channels=0.5)
    CompressionCallback(recipe).check(config, BUDGET)
    plan = StructuredPlan.whole(config)
    assert CompressionCallback(recipe).staged.divide(plan, config, BUDGET) is None
    for options in ({"num_stages": 2}, {"groups": [["blocks.*"]]}, {"order": "least_sensitive"}):
        with pytest.raises(ValueError, match="StructuredPruning compresses the model as a whole"):
            CompressionCallback(recipe, **options).check(config, BUDGET)


def test_time_must_not_cut_off_a_stage():
    budget = TrainingBudget(max_steps=12, max_seconds=5, tokens_per_step=128)
    assert CompressionCallback(LowRank()).starts(budget) == (0,)
    with pytest.raises(ValueError, match="max_seconds=5 could end the run before its last stage"):
        CompressionCallback(LowRank(), num_stages=2).starts(budget)
