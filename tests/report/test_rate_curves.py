"""Loss against learning rate in the report: best rates, whether they are interior, and agree."""

import json

import numpy as np
import pytest
from rich.console import Console
from simulated_sweep import SHAPES, summary, write_run

from mobilellm.report import compare
from mobilellm.report.rate_curves import RateCurve, rate_sentences

RATES = [0.001 * 2**n for n in range(5)]
PARAMETRIZATION = {"_target_": "mobilellm.optim.completep", "base_width": 64}


def write_rates(folder, name, best, *, seeds=(0, 1), recipe=None, rates=RATES):
    """Runs of a shape whose loss is lowest at the rate with index `best`."""
    config, loss = SHAPES[name]
    for place, rate in enumerate(rates):
        for seed in seeds:
            facts = summary(
                config, seed=seed, loss=loss + 0.02 * (place - best) ** 2 + 0.001 * seed,
                learning_rate=rate, learning_rates_tried=None,
            )  # fmt: skip
            given = {"parametrization": recipe or {}}
            kind = "scaled" if recipe else "plain"
            write_run(folder / f"{kind}{name}-{rate}-{seed}", facts, config=given)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for name, best in (("8×112", 2), ("16×64", 2), ("24×64", 3)):
        write_rates(folder, name, best, recipe=PARAMETRIZATION)
    for name, best in (("8×112", 1), ("24×64", 4)):
        write_rates(folder, name, best)
    return folder


@pytest.fixture(scope="module")
def found(sweep, tmp_path_factory):
    return compare([sweep], tmp_path_factory.mktemp("report"))


def test_the_best_rate_of_each_shape_is_found(found):
    assert {(c.recipe, c.label): (c.best, c.is_interior) for c in found.rate_curves} == {
        ("completep, adamw", "8×112"): (0.004, True),
        ("completep, adamw", "16×64"): (0.004, True),
        ("completep, adamw", "24×64"): (0.008, True),
        ("standard, adamw", "8×112"): (0.002, True),
        ("standard, adamw", "24×64"): (0.016, False),
    }
    assert all(len(curve.groups) == 5 for curve in found.rate_curves)


def test_sentences_say_how_far_the_best_rates_lie_apart(found):
    # They are the main result, since each configuration is one rate of a shape.
    assert set(found.findings[:2]) == {
        "Learning rate (completep, adamw): the best rates of 3 shapes lie between 0.004 and 0.008, "
        "1 step (a factor of 2) apart; lower and higher rates were tried for each.",
        "Learning rate (standard, adamw): the best rates of 2 shapes lie between 0.002 and 0.016, "
        "3 steps (a factor of 8) apart; the best rate is the lowest or highest that was tried for "
        "24×64.",
    }


def test_table_plot_and_data(found, tmp_path):
    assert (found.folder / "loss_against_learning_rate.png").stat().st_size > 10_000
    page = found.page.read_text(encoding="utf-8")
    assert "Is the same learning rate best for all shapes?" in page
    assert "Best learning rates" in page and "Final loss against learning rate" in page
    record = json.loads((found.folder / "comparison.json").read_text(encoding="utf-8"))
    first = record["learning_rates"][0]
    assert first["rates"] == RATES and first["best"] in RATES
    console = Console(width=160, record=True, file=(tmp_path / "text").open("w", encoding="utf-8"))
    console.print(found)
    text = console.export_text()
    assert "estimate  interior" in text and "0.001–0.016" in text


def test_runs_of_fewer_rates_have_no_curve(tmp_path):
    write_rates(tmp_path / "a", "8×112", 0, rates=RATES[:2])
    found = compare([tmp_path / "a"], tmp_path / "out")
    assert found.rate_curves == ()
    assert not (tmp_path / "out/loss_against_learning_rate.png").exists()


def test_one_rate_for_all_widths_is_no_fault_if_it_is_scaled(tmp_path):
    for name in ("8×112", "24×64"):
        write_rates(tmp_path / "a", name, 0, rates=RATES[:1], recipe=PARAMETRIZATION)
    messages = [c.message for c in compare([tmp_path / "a"], tmp_path / "out").cautions]
    [text] = [m for m in messages if m.startswith("no other learning rate")]
    assert text == (
        "no other learning rate was tried for any configuration; train with "
        "learning_rate_probe=true"
    )


def curve(rates, losses):
    return RateCurve(label="a", recipe="r", groups=(), rates=tuple(rates), losses=tuple(losses))


@pytest.mark.parametrize("optimum", np.linspace(-0.45, 0.45, 5))
def test_the_estimate_is_the_minimum_of_a_parabola_in_the_logarithm(optimum):
    found = curve(RATES, [(place - 2 - optimum) ** 2 for place in range(5)])
    assert found.estimate == pytest.approx(RATES[2] * 2**optimum)
    assert curve(RATES, range(5)).estimate is None


def test_a_single_shape():
    assert rate_sentences([curve(RATES, [3, 2, 1, 2, 3])]) == (
        "Learning rate (r): 0.004 is best for a; it lies between others.",
    )
