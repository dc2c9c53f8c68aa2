"""The head start on losses that follow known curves, and what cannot be compared."""

import json

import pytest
from simulated_sweep import model, summary, write_run

from mobilellm.commands.head_start import run
from mobilellm.report.head_start import measure_head_start, tokens_ratio
from mobilellm.report.head_start_page import sentences, table, write_report

SHAPE = model(4, 64, 152, 4, 2)
BUDGETS = (250_000, 500_000, 1_000_000, 2_000_000)


def log_loss(tokens):
    """Falls by 0.1 with every doubling, so that interpolation in log tokens is exact."""
    import math

    return 5 - 0.1 * math.log2(tokens / 250_000)


def write(folder, tokens, seed, loss, start=None, shape=SHAPE, **changes):
    write_run(folder, summary(shape, seed=seed, loss=loss, tokens=tokens, **changes))
    text = f"init_from: {start or 'null'}\nseed: {seed}\n"
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def write_all(root, saved=lambda _: 3.0, seeds=(0, 1)):
    """Inherited runs are as good as random ones of `saved(tokens)` times as many tokens."""
    for seed in seeds:
        for tokens in BUDGETS:
            noise = 0.001 * seed
            write(root / f"random{tokens}_{seed}", tokens, seed, log_loss(tokens) + noise)
            write(root / f"inherited{tokens}_{seed}", tokens, seed,
                  log_loss(saved(tokens) * tokens) + noise, "cut")  # fmt: skip


def test_a_constant_head_start_is_found(tmp_path):
    write_all(tmp_path)
    rows = {row.tokens: row for row in measure_head_start([tmp_path]).rows}
    assert rows[250_000].ratio.value == pytest.approx(3, rel=1e-6)
    assert rows[500_000].ratio.value == pytest.approx(3, rel=1e-6)
    assert [ratio.value for ratio in rows[250_000].by_seed] == pytest.approx([3, 3])
    # Random weights were not trained on 3 or 6 million tokens: only a bound is known.
    assert str(rows[1_000_000].ratio) == "at least 2.00"
    assert str(rows[2_000_000].ratio) == "at least 1.00"
    assert rows[2_000_000].ratio.short == "≥ 1.00"
    assert rows[500_000].random == pytest.approx(log_loss(500_000) + 0.0005)


def test_a_shrinking_head_start_is_found(tmp_path):
    write_all(tmp_path, saved=lambda tokens: 4 * (250_000 / tokens) ** 0.5)
    rows = {row.tokens: row.ratio for row in measure_head_start([tmp_path]).rows}
    assert rows[250_000].value == pytest.approx(4)
    assert rows[500_000].value == pytest.approx(4 / 2**0.5)
    assert rows[1_000_000].value == pytest.approx(2)


def test_a_seed_whose_losses_rise_has_no_ratio_of_its_own(tmp_path):
    write_all(tmp_path)
    for kind, start in (("random", None), ("inherited", "cut")):
        for tokens in BUDGETS:
            loss = log_loss(tokens) + (0.11 if kind == "random" and tokens == 500_000 else 0)
            write(tmp_path / f"{kind}{tokens}_2", tokens, 2, loss, start)
    row = measure_head_start([tmp_path]).rows[0]
    assert len(row.by_seed) == 2
    assert 2 < row.ratio.value < 3


def test_a_handicap_is_below_one(tmp_path):
    write_all(tmp_path, saved=lambda _: 0.5)
    rows = {row.tokens: row.ratio for row in measure_head_start([tmp_path]).rows}
    assert rows[500_000].value == pytest.approx(0.5)
    assert str(rows[250_000]) == "at most 1.00"


def test_the_report_is_written_and_says_what_it_does_not_say(tmp_path):
    write_all(tmp_path / "runs")
    found = measure_head_start([tmp_path / "runs"])
    page = write_report(found, tmp_path / "report")
    assert "shrinks as the budget grows" in page.read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "report/head_start.json").read_text(encoding="utf-8"))
    assert [row["tokens"] for row in facts["rows"]] == list(BUDGETS)
    assert facts["origin"] == "cut"
    assert "on 250k tokens what random weights reach on 3.00 times as many" in sentences(found)[0]
    assert table(found).row_count == 4
    write_report(found, tmp_path / "report")  # its own report is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(ValueError, match="is in use and is never overwritten"):
        write_report(found, tmp_path / "mine")
    with pytest.raises(ValueError, match="is in use and is never overwritten"):
        run([str(tmp_path / "missing"), "--out", str(tmp_path / "mine")])  # before runs are read


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("random", "none of the 8 runs started from random weights; train some with the same se"),
        ("inherited", "none of the 8 runs started from inherited weights; .* init_from=DIR"),
    ],
)
def test_both_kinds_of_runs_are_needed(remove, message, tmp_path):
    write_all(tmp_path)
    for folder in tmp_path.glob(f"{remove}*"):
        (folder / "summary.json").unlink()
        (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=message):
        measure_head_start([tmp_path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": model(8, 64, 152, 4, 2)}, "have different shapes; give the runs of one shape"),
        ({"sequence_length": 64}, "the runs differ in sequence_length: 256 in .* give runs on one"),
        ({"start": "other"}, r"the runs inherit from 2 folders \(cut, other, …\)"),
        ({"seed": 0}, "several runs have 500,000 tokens and seed 0, among them"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(options, message, tmp_path):
    write_all(tmp_path)
    given = {"seed": 7, "start": "cut"} | options
    write(tmp_path / "z", 500_000, given.pop("seed"), 4.5, given.pop("start"), **given)
    with pytest.raises(ValueError, match=message):
        measure_head_start([tmp_path])


def test_curves_that_rise_or_have_one_point_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"do not fall with the tokens \(4.0000 at 1, 4.1000 at 2"):
        tokens_ratio({1: 4.0, 2: 4.1}, 1, 4.0)
    write(tmp_path / "a", 1000, 0, 4.0)
    write(tmp_path / "b", 1000, 0, 3.9, "cut")
    with pytest.raises(ValueError, match=r"one number of tokens, 1,000; train others, e.g. with h"):
        measure_head_start([tmp_path])
