"""Ratios of sums over documents, and their intervals."""

import pytest

from mobilellm.evaluation.intervals import bootstrap_intervals, wilson_interval
from mobilellm.evaluation.ratios import RatioSums, ratio_record


def test_values_are_summed_by_document():
    sums = RatioSums(3)
    for measure, document, above, below in (
        ("right", 0, 1, 1), ("right", 0, 0, 1), ("right", 2, 1, 1), ("nats", 1, 3.5, 7),
    ):  # fmt: skip
        sums.add(measure, document, above, below)
    assert sums.ratios() == {"right": ((1, 0, 1), (2, 0, 1)), "nats": ((0, 3.5, 0), (0, 7, 0))}
    record = ratio_record(sums.ratios())
    assert record["right"] == pytest.approx(2 / 3)
    # A single document does not show how much documents differ.
    assert record["nats"] == 0.5 and "nats_interval" not in record


def test_the_interval_is_that_of_the_bootstrap_over_documents():
    ratio = ((1.0, 0.0, 2.0, 1.0), (1.0, 1.0, 3.0, 2.0))
    (expected,) = bootstrap_intervals([ratio])
    assert expected is not None
    assert ratio_record({"x": ratio}, ["x"])["x_interval"] == list(expected)


@pytest.mark.parametrize("value", [0, 1])
def test_a_share_without_exceptions_has_an_interval(value):
    ratio = ((2.0 * value, 0.0, value), (2.0, 0.0, 1.0))
    record = ratio_record({"share": ratio, "loss": ratio}, ["share"])
    assert record["share_interval"] == list(wilson_interval(2 * value, 2))
    assert record["loss_interval"] == [value, value]
