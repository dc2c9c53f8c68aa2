"""The callback says when and on what; what stages did goes through checkpoints to the log."""

import pytest
from low_rank_recipe import LowRank
from small_run import fit, make_data, make_model, make_module, read_rows

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.compression.structured import StructuredPruning
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.training.training_budget import TrainingBudget

BUDGET = TrainingBudget(max_steps=12, tokens_per_step=128)
RECORD = {"stage": 1, "step": 0, "tokens": 0, "loss_before": 3.0, "loss_after": 3.5,
          "parameters_after": 99}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "given"}, "order=given needs groups"),
        ({"order": "forward", "groups": [["blocks.*"]]}, "leave out order=forward"),
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
    stages = callback.stages(plan, config, BUDGET)
    assert stages.starts == (0, 6)
    assert [len(group) for group in stages.groups] == [2, 4]


def test_least_sensitive_first():
    callback = CompressionCallback(LowRank(), num_stages=3, order="least_sensitive")
    plan = LowRank().plan(make_model(), [])
    stages = callback.stages(plan, make_model().config, BUDGET)
    # The recipe of the tests expects less error the later a layer comes.
    assert sum(stages.groups, ()) == plan.names[::-1]


def test_a_recipe_of_the_whole_model_has_one_stage():
    config, recipe = make_model().config, StructuredPruning(keep_channels=0.5)
    CompressionCallback(recipe).check(config, BUDGET)
    plan = StructuredPlan.whole(config)
    assert CompressionCallback(recipe).stages(plan, config, BUDGET) is None
    for options in ({"num_stages": 2}, {"groups": [["blocks.*"]]}, {"order": "least_sensitive"}):
        with pytest.raises(ValueError, match="StructuredPruning compresses the model as a whole"):
            CompressionCallback(recipe, **options).check(config, BUDGET)


def test_time_must_not_cut_off_a_stage():
    budget = TrainingBudget(max_steps=12, max_seconds=5, tokens_per_step=128)
    assert CompressionCallback(LowRank()).starts(budget) == (0,)
    with pytest.raises(ValueError, match="max_seconds=5 could end the run before its last stage"):
        CompressionCallback(LowRank(), num_stages=2).starts(budget)


def test_records_are_logged_before_the_first_step_and_kept(tmp_path):
    callback, saver = CompressionCallback(LowRank()), CheckpointCallback(tmp_path)
    callback.records = [RECORD]
    fit(make_module(3), make_data(), tmp_path, callbacks=[callback, saver])
    rows = read_rows(tmp_path)
    assert [row["compression/loss_after"] for row in rows] == ["3.5", "", "", ""]
    assert rows[0]["parameters/stored"] == "99"
    assert rows[0]["val/loss"], "the row has what validation wrote too"
    again = CompressionCallback(LowRank())
    fit(make_module(3), make_data(), callbacks=[again, saver], resume=saver.last_path)
    assert again.records == [RECORD]
