"""A budget of many times the training text is named when the run starts."""

import logging

import pytest

from mobilellm.data import prepare_data
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.train import prepare


@pytest.mark.parametrize(("factor", "is_warned"), [(3.9, False), (4.2, True), (50, True)])
def test_passes_over_the_text(tiny_overrides, caplog, factor, is_warned):
    run = plan_run(compose("train", tiny_overrides))
    tokens = prepare_data(run.data).tokens("train")
    count = sum(len(tokens[at : at + 4096]) for at in range(0, len(tokens), 4096))
    longer = plan_run(compose("train", [*tiny_overrides, f"max_tokens={int(factor * count)}"]))
    with caplog.at_level(logging.WARNING):
        prepare(longer)
    wanted = f"the budget is {factor:.1f} times the {count:,} tokens of training text in "
    assert (wanted in caplog.text) == is_warned
    assert (f"or max_tokens={4 * count} or less" in caplog.text) == is_warned
