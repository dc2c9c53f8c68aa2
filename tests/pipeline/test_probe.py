"""The probe of the learning rate: which rates it tries, and when it looks beyond them."""

import json

import pytest

from mobilellm.pipeline import probe
from mobilellm.pipeline.identity import config_hash, differences
from mobilellm.pipeline.probe_factors import further_factor, possible_factors

PROBE = ["learning_rate_probe=true", "learning_rate_probe_share=0.25"]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.0, 2.0, 3.0], None),
        ([1.0, 2.0, 3.0], 0.25),
        ([3.0, 2.0, 1.0], 4.0),
        ([3.0, 2.0, None], None),
        ([1.0, None, None], 0.25),
        ([None, None, None], 0.25),
    ],
)
def test_the_next_factor_lies_beyond_a_best_one_at_the_edge(losses, expected):
    assert further_factor([0.5, 1.0, 2.0], losses) == expected


def test_the_spacing_at_each_end_goes_on():
    assert further_factor([0.1, 1.0, 2.0, 8.0], [4.0, 3.0, 2.0, 1.0]) == 32.0
    assert further_factor([0.1, 1.0, 2.0, 8.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.01)
    assert further_factor([1.0], [1.0]) is None


def test_all_factors_that_a_probe_may_try():
    assert possible_factors([2, 0.5, 1], 2) == [0.125, 0.25, 0.5, 1, 2, 4, 8]
    assert possible_factors([1], 4) == [1]


def rates(summary):
    return [trial["learning_rate"] for trial in summary["learning_rates_tried"]]


def test_a_probe_widens_itself_until_its_best_rate_lies_between_others(tiny_run, tmp_path):
    """The rates given are far too low for so short a run."""
    low = [*PROBE, "optimizer.learning_rate=1e-3", "learning_rate_probe_factors=[1,4]"]
    summary = tiny_run(*low)
    tried = rates(summary)
    assert tried[:2] == pytest.approx([1e-3, 4e-3])
    assert len(tried) > 2, "the higher one is better"
    assert tried == pytest.approx([1e-3 * 4**n for n in range(len(tried))])
    best = tried.index(summary["learning_rate"])
    assert 0 < best < len(tried) - 1 or len(tried) == 2 + 4
    # Another seed finds what was tried.
    folders = list(tmp_path.glob("outputs/*/probes/*/summary.json"))
    assert len(folders) == len(tried)
    assert rates(tiny_run(*low, "seed=1")) == tried
    assert list(tmp_path.glob("outputs/*/probes/*/summary.json")) == folders


def test_it_tries_no_more_than_it_may(tiny_run):
    low = [*PROBE, "optimizer.learning_rate=1e-6", "learning_rate_probe_factors=[1,2]"]
    assert len(rates(tiny_run(*low, "learning_rate_probe_widenings=1"))) == 3
    summary = tiny_run(*low, "learning_rate_probe_widenings=0", "experiment_name=fixed")
    assert len(rates(summary)) == 2


def test_a_run_that_has_begun_keeps_its_rate(tiny_run, tmp_path, monkeypatch):
    """Also one of an earlier version, whose probe did not widen itself."""
    low = [*PROBE, "optimizer.learning_rate=1e-3", "learning_rate_probe_factors=[1,4]"]
    with monkeypatch.context() as earlier:
        earlier.setattr(probe, "further_factor", lambda factors, losses: None)
        first = tiny_run(*low)
    [path] = tmp_path.glob("outputs/default/*/summary.json")
    facts = json.loads(path.read_text(encoding="utf-8")) | {"status": "stopped"}
    path.write_text(json.dumps(facts), encoding="utf-8")
    again = tiny_run(*low, "resume=true")
    assert again["status"] == "finished"
    assert rates(again) == rates(first) == pytest.approx([1e-3, 4e-3])
    assert again["learning_rate"] == first["learning_rate"]


def test_the_default_does_not_rename_earlier_runs():
    config = {"seed": 0, "learning_rate_probe": True, "learning_rate_probe_factors": [1, 2]}
    assert config_hash(config | {"learning_rate_probe_widenings": 4}) == config_hash(config)
    assert config_hash(config | {"learning_rate_probe_widenings": 2}) != config_hash(config)
    assert config_hash(config | {"parametrization": {}}) == config_hash(config)


def test_a_rate_that_widening_chose_is_the_same_run(tmp_path):
    probing = {
        "learning_rate_probe": True, "learning_rate_probe_factors": [0.5, 1, 2],
        "learning_rate_probe_widenings": 4,
    }  # fmt: skip
    config = probing | {"optimizer": {"learning_rate": 1e-3}}
    for rate, found in ((8e-3, {}), (7e-3, {"optimizer.learning_rate"})):
        folder = tmp_path / str(rate)
        folder.mkdir()
        recorded = json.dumps(config | {"optimizer": {"learning_rate": rate}})
        (folder / "config.yaml").write_text(recorded, encoding="utf-8")
        assert set(differences(folder, config)) == set(found)
