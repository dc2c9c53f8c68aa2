"""Latencies of found models are measured in alternation with a shape of the profile."""

import dataclasses
import json

import pytest
from simulated_profile import profile, shape, write_profile

from mobilellm.evaluation.device_profile import read_profile
from mobilellm.search.latency_check import check_latencies
from mobilellm.search.space.constraints import Constraints

WIDTHS = {"depths": (1, 2, 4), "widths": (64, 256, 512)}


@pytest.fixture
def path(tmp_path):
    return write_profile(tmp_path / "here.json", **WIDTHS)


def test_ratios_to_the_reference_count_and_not_times(path):
    """The profile's times are made up, and so are those that a shape of the profile must have."""
    known = profile(**WIDTHS).shapes[4]
    constraints = Constraints(latency_profile=path, max_latency_ms=10 * known.decode_ms_per_token)
    deep = shape(8, 64, 192)
    check = check_latencies(constraints, [(3, known.model), (5, deep)])
    assert check.reference == "2×256"
    same, other = check.models
    assert (same.number, other.number, check.problem) == (3, 5, None)
    assert same.predicted == pytest.approx(known.decode_ms_per_token)
    # The same shape twice: its ratio is 1, up to noise.
    assert same.measured == pytest.approx(known.decode_ms_per_token, rel=0.5)
    assert other.measured > 0
    assert "meets the limit of" in same.text
    assert check.sentence.startswith("Measured in alternation with 2×256 of the device profile: ")
    tight = dataclasses.replace(same, limit=same.measured / 2)
    assert "exceeds the limit of" in tight.text
    assert "limit" not in dataclasses.replace(same, limit=None).text


def test_what_cannot_be_measured_here_is_said(path, tmp_path):
    found = json.loads((tmp_path / "here.json").read_text(encoding="utf-8"))
    (tmp_path / "phone.json").write_text(json.dumps(found | {"device": "phone"}), encoding="utf-8")
    constraints = Constraints(
        latency_profile=str(tmp_path / "phone.json"), latency_device="phone", max_latency_ms=3
    )
    check = check_latencies(constraints, [(0, shape(2, 64, 192))])
    assert check.sentence == (
        "Latencies were not measured: the profile is of another device, phone."
    )
    assert check_latencies(Constraints(), [(0, shape(2, 64, 192))]) is None
    assert check_latencies(constraints, []) is None


def test_percentiles_and_prompts_are_kept_and_may_be_missing(path, tmp_path):
    measured = read_profile(tmp_path / "here.json")
    first = dataclasses.replace(
        measured.shapes[0], prefill_ms=2.0, prefill_ms_p95=2.5, decode_ms_p95=1.5
    )
    file = tmp_path / "more.json"
    more = dataclasses.replace(measured, shapes=(first, *measured.shapes[1:]))
    file.write_text(more.to_json(), encoding="utf-8")
    again = read_profile(file).shapes
    assert again[0] == first
    assert again[1].prefill_ms is None
    with pytest.raises(ValueError, match=r"prefill_ms=-1.0 must be above 0; measure it again"):
        dataclasses.replace(more, shapes=(dataclasses.replace(first, prefill_ms=-1.0),))
