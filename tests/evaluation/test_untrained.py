"""Weights that know no more than chance are pointed out."""

import math

from mobilellm.evaluation.untrained import warn_if_untrained


def test_weights_that_know_something_are_not(caplog):
    warn_if_untrained(0.89 * math.log(512), 512, "a model")
    assert not caplog.records
    warn_if_untrained(0.91 * math.log(512), 512, "a model")
    assert "a model has an initial loss of 5.68 nats per token" in caplog.text
