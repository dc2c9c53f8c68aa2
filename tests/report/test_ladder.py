"""The report on a ladder: verdicts within each size, the law, the best depth, decisions."""

import json
import re

import numpy as np
import pytest
from simulated_ladder_runs import DEPTHS, SIZES, loss_of, write_ladder
from simulated_sweep import write_sweep

from mobilellm.report.analysis import analyse
from mobilellm.report.ladder_plots import (
    best_depth_against_size,
    decisions_by_size,
    loss_against_size,
)
from mobilellm.report.ladder_records import runs_of_record
from mobilellm.report.ladder_tables import ladder_html
from mobilellm.report.page import page_text
from mobilellm.report.records import csv_text, json_text
from mobilellm.report.runs import read_runs
from mobilellm.report.statistics import NOT_COMPARABLE
from mobilellm.search.loss_law import fit_loss_law


def analysed(folder, **options):
    return analyse(read_runs([folder]), sources=[folder], folder=folder / "comparison", **options)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Three sizes with five depths, and a larger one with three depths and a single seed."""
    return analysed(write_ladder(tmp_path_factory.mktemp("ladder")))


def test_configurations_are_those_of_the_largest_budgets(ladder):
    assert len(ladder.groups) == 18
    assert [round(rung.body, -4) for rung in ladder.ladder.rungs] == [5e4, 1e5, 3e5, 1e6]
    assert [rung.tokens for rung in ladder.ladder.rungs] == [10**6, 2 * 10**6, 6 * 10**6, 10**7]
    assert all(re.fullmatch(r"\d+×\d+", group.label) for group in ladder.groups)
    assert len(ladder.ladder.shorter) == 36
    rows = json.loads(json_text(ladder))["runs"]
    assert len(rows) == 3 * (5 * 8 + 3)
    assert len(csv_text(ladder).splitlines()) == len(rows) + 1


def test_verdicts_stay_within_a_size(ladder):
    size = {label: rung.body for rung in ladder.ladder.rungs for label in rung.labels}
    for pair in ladder.pairs:
        is_same = size[pair.first] == size[pair.second]
        assert (pair.verdict == NOT_COMPARABLE) == (not is_same)
        assert is_same or pair.reason == "different size"
    assert ladder.reference is None
    assert [len(labels) for _, labels in ladder.blocks] == [5, 5, 5, 3]
    worst = ladder.pair("8×22", "1×64")
    assert worst.verdict == "worse"


def test_sizes_and_horizons_are_no_cautions(ladder):
    kinds = {caution.kind for caution in ladder.cautions if caution.is_serious}
    assert kinds.isdisjoint({"tokens", "budget", "schedule"})
    assert len(ladder.cautions) < 12
    # Each size has seeds of its own: those of 50 thousand parameters are no fault of the larger.
    assert not [c for c in ladder.cautions if "only some configurations" in c.message]


def test_noise_is_given_for_each_size(ladder):
    found = [each.sentence("nats").partition(": ")[0] for each in ladder.power]
    # The others have fewer than three seeds.
    names = [rung.labels for rung in ladder.ladder.rungs[:2]]
    assert found == [f"Noise among 5 configurations ({a}, {b}, …)" for a, b, *_ in names]


def test_twenty_tokens_per_parameter_are_not_too_short(ladder, tmp_path):
    assert any("too short" in text for text in ladder.findings)  # the largest size has 10
    write_ladder(tmp_path, {5e4: (0,), 1e5: (0,)}, horizons=(1.0,), held_out=False)
    found = analysed(tmp_path)
    ratios = [run.tokens / run.parameters["body"] for g in found.groups for run in g.runs]
    assert 19.5 < min(ratios) < 20
    assert not any("too short" in text for text in found.findings)


def test_law_in_sentences_and_records(ladder):
    law, held = ladder.ladder.law, ladder.ladder.held_out
    runs = law.runs
    error = np.abs(law.predict(runs.features(("depth", "width", "tokens"))) / runs.loss - 1)
    assert error.max() < 0.02
    assert held.error < 0.02
    assert held.body == pytest.approx(1e6, rel=0.01)
    truth = loss_of(held.runs.depth, held.runs.width, held.runs.tokens)
    assert held.predicted == pytest.approx(truth, rel=0.01)
    text = " ".join(ladder.findings)
    assert re.search(r"Law of the loss: L = 1\.\d+ \+ 0\.\d+ D\^-0", text)
    assert f"largest size, 1.00M, with a mean error of {100 * held.error:.2f} % (at most" in text
    longest = held.runs.tokens == 1e7
    by_depth = {8.0: 2, 4.0: 1, 2.0: 0}
    for depth, losses in ((held.predicted_depth, held.predicted), (held.measured_depth,
                                                                   held.runs.loss)):  # fmt: skip
        assert by_depth[depth] == losses[longest].argmin()
    assert "Fitted to 50.3k, 101k and 301k body parameters only, the law predicts the" in text
    assert "more precisely than by body parameters and tokens alone" in text
    record = json.loads(json_text(ladder))["law"]
    again = fit_loss_law(runs_of_record(record))
    for name, found in again.parameters().items():
        assert found == pytest.approx(law.parameters()[name]), name
    for name, entry in record["parameters"].items():
        assert entry["low"] <= entry["value"] <= entry["high"], name


def test_best_depths_grow(ladder):
    found = ladder.ladder.best_depths
    assert [best.depths for best in found] == [DEPTHS, DEPTHS, DEPTHS, (2, 4, 8)]
    by_law = [best.by_law.depth for best in found]
    assert by_law == sorted(by_law)
    # Of all shapes of 12 D W² = M parameters, the one with the lowest loss.
    depths = np.linspace(0.5, 12, 2000)
    for best, body in zip(found, (*SIZES, 1e6), strict=True):
        losses = loss_of(depths, np.sqrt(body / 12 / depths), 20 * body)
        assert best.by_law.depth == pytest.approx(depths[losses.argmin()], rel=0.15)


def test_decisions_by_smaller_sizes(ladder):
    found, with_all_depths = ladder.ladder.decisions
    assert found.depths == (2, 4, 8)
    assert with_all_depths.depths == DEPTHS
    assert with_all_depths.body == pytest.approx(3e5, rel=0.02)
    assert with_all_depths.num_seeds == 2
    assert len(with_all_depths.rows) == 2 * 3 + 2
    assert found.num_seeds == 1
    assert len(found.rows) == 3 * 3 + 2
    shares = [row.share_of_flops for row in found.rows]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.005
    assert shares[-1] == pytest.approx(0.5), "half of the tokens of the largest size"
    assert all(0 <= row.pairs <= 1 for row in found.rows)
    assert "Decisions for 1.00M body parameters by smaller models (share of the 3 pairs" in (
        " ".join(ladder.findings)
    )


def test_decisions_count_pairs_in_the_same_order(tmp_path):
    """Small models prefer the opposite order: no pair is right, the correlation is -1."""

    def loss(depth, width, tokens):
        return 3 + (0.2 if width * np.sqrt(depth) < 100 else -0.2) * np.log(depth) - tokens / 1e8

    folder = write_ladder(tmp_path, {5e4: (0, 1, 2), 3e5: (0, 1, 2)}, noise=0.001,
                          held_out=False, loss=loss)  # fmt: skip
    found = analysed(folder).ladder
    rows = {(round(row.body, -4), row.tokens): row for row in found.decisions[0].rows}
    small, short = rows[5e4, 10**6], rows[3e5, 15 * 10**5]
    assert (small.pairs, small.winner, small.rank_correlation) == (0, 0, pytest.approx(-1))
    assert (short.pairs, short.winner, short.rank_correlation) == (1, 1, pytest.approx(1))
    assert found.law is None
    assert "2 sizes (body parameters) instead of at least 3" in "; ".join(found.missing)
    assert "No law of the loss was fitted: 2 sizes" in " ".join(analysed(folder).findings)
    assert [best.by_law for best in found.best_depths] == [None, None]
    assert [best.sentence()[:3] for best in found.best_depths] == ["1.0", "8.0"]


def test_a_ladder_that_is_not_finished(tmp_path):
    """A further size with one depth so far: the others are compared as before."""
    folder = write_ladder(tmp_path, {5e4: (0, 1, 2), 1e5: (0, 1, 2)}, held_out=False)
    write_ladder(folder / "next", {3e5: (0,)}, depths=(1,), horizons=(0.25,), held_out=False)
    analysis = analysed(folder)
    found = analysis.ladder
    assert [len(rung.groups) for rung in found.rungs] == [5, 5, 1]
    assert found.held_out is None, "one depth is no test of the law"
    assert [best.depths for best in found.best_depths] == [DEPTHS, DEPTHS]
    assert {round(row.body, -4) for row in found.decisions[0].rows} == {5e4, 1e5}
    assert found.decisions[0].body == pytest.approx(1e5, rel=0.02)
    assert best_depth_against_size(analysis) is not None
    assert "<h2>Ladder of sizes</h2>" in page_text(analysis, [])


def test_what_is_no_ladder(tmp_path):
    """One size, or several of equal tokens, is compared as before."""
    assert analysed(write_sweep(tmp_path / "one")).ladder is None
    equal = write_ladder(tmp_path / "equal", {5e4: (0,)}, horizons=(1.0,), held_out=False)
    assert analysed(equal).ladder is None
    record = json.loads(json_text(analysed(equal)))
    assert record["law"] is record["best_depth"] is record["decisions_by_size"] is None


def test_runs_of_different_settings_have_no_law(tmp_path):
    folder = write_ladder(tmp_path / "a", {5e4: (0,), 1e5: (0,), 3e5: (0,)}, held_out=False)
    write_ladder(folder / "b", {5e4: (0,)}, held_out=False, learning_rate=0.004)
    found = analysed(folder).ladder
    assert found.law is None
    assert "have the same depth, width and tokens but other settings" in found.missing[0]
    record = json.loads(json_text(analysed(folder)))["law"]
    with pytest.raises(ValueError, match=r"there is no law of the loss: .* other settings"):
        runs_of_record(record)


def test_page_and_plots(ladder):
    assert loss_against_size(ladder) is not None
    assert best_depth_against_size(ladder) is not None
    assert decisions_by_size(ladder) is not None
    html = ladder_html(ladder.ladder)
    for name, (value, _, _) in ladder.ladder.law.parameters().items():
        assert f'<th scope="row">{name}</th>' in html
        assert f"<td>{value:.3g}</td>" in html
    page = page_text(ladder, [])
    assert page.count('<table class="matrix">') == 4
    assert "<h2>Ladder of sizes</h2>" in page
