"""The fit of the recipe rule, on a grid whose optima are known."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm.optim.recipe_rule import Setting
from scripts.benchmarks.recipe_fit import (
    GridRun,
    excess,
    fit_rule,
    make_grid,
    minimum,
    read_grid,
    write_grid,
)

REFERENCE = Setting(tokens=400_000, width=96, depth=6)
SHAPES = ((32, 4), (64, 6), (144, 4), (64, 16))


def true_step(tokens: float) -> float:
    """The best tokens per step of the simulated grid."""
    return 300 * (tokens / 400_000) ** 0.4


def true_rate(tokens: float, width: int, depth: int, step: float) -> float:
    """The best learning rate of the simulated grid."""
    ratios = (tokens / 400_000) ** -0.2 * (width / 96) ** -0.6 * (depth / 6) ** 0.1
    return 0.02 * ratios * (step / 300) ** 0.5


def simulated_runs() -> list[GridRun]:
    """Losses that grow with the square of the distances from the true optima."""
    runs = []
    for width, depth in SHAPES:
        for tokens in (1e5, 4e5, 1.6e6):
            for step in (64, 128, 256, 512, 1024, 2048):
                for rate in (0.005 * 2**k for k in range(6)):
                    rate_error = math.log(rate / true_rate(tokens, width, depth, step))
                    step_error = math.log(step / true_step(tokens))
                    loss = 4 + 0.05 * rate_error**2 + 0.02 * step_error**2
                    runs.append(
                        GridRun(
                            optimizer="muon", width=width, depth=depth, tokens=tokens, step=step,
                            rate=rate, loss=loss,
                        )
                    )  # fmt: skip
    return runs


def test_the_minimum_of_a_parabola_is_found_between_places():
    losses = {place: 1 + (math.log(place) - math.log(3)) ** 2 for place in (1, 2, 4, 8)}
    at, value = minimum(losses) or (0.0, 0.0)
    assert (at, value) == (pytest.approx(3), pytest.approx(1))


def test_there_is_no_minimum_at_an_edge():
    assert minimum({1: 1.0, 2: 2.0, 4: 3.0}) is None


def test_the_laws_of_a_simulated_grid_are_recovered():
    rule = fit_rule(make_grid(simulated_runs(), "muon"), REFERENCE, "wsd")
    for tokens in (1e5, 3e5, 1e7):
        assert rule.best_step(tokens) == pytest.approx(true_step(tokens), rel=0.05)
        for width, depth in SHAPES:
            setting = Setting(tokens=tokens, width=width, depth=depth)
            wanted = true_rate(tokens, width, depth, 512)
            assert rule.best_rate(setting, 512) == pytest.approx(wanted, rel=0.05)
    assert rule.fitted == {
        "tokens": (1e5, 1.6e6), "width": (32, 144), "depth": (4, 16), "step": (64, 2048)
    }  # fmt: skip


def test_the_excess_over_the_best_of_the_grid_is_small_for_the_true_laws():
    grid = make_grid(simulated_runs(), "muon")
    found = list(excess(grid, fit_rule(grid, REFERENCE, "wsd")))
    # A step is at most a factor of sqrt(2) from the best one: 0.02 * log(sqrt(2))**2. The best rate
    # of the grid may be as far from the true one, which costs more.
    assert len(found) >= 10
    assert all(-0.01 < above < 0.004 for *_, above in found)


def test_runs_that_differ_only_by_their_seed_are_averaged():
    runs = [
        GridRun(optimizer="muon", width=8, depth=2, tokens=1e5, step=64, rate=0.1, loss=loss)
        for loss in (3.0, 4.0)
    ]
    assert make_grid(runs, "muon") == {Setting(tokens=1e5, width=8, depth=2): {64: {0.1: 3.5}}}
    assert make_grid(runs, "adamw") == {}


def test_a_grid_without_interior_optima_is_refused():
    runs = [run for run in simulated_runs() if run.rate == 0.005]
    with pytest.raises(ValueError, match="0 interior optima of the learning rate"):
        fit_rule(make_grid(runs, "muon"), REFERENCE, "wsd")


def test_the_script_fits_the_runs_of_a_file(tmp_path: Path):
    runs = simulated_runs()
    write_grid(tmp_path / "grid.csv", runs)
    assert read_grid(tmp_path / "grid.csv") == runs
    script = Path(__file__).resolve().parents[2] / "scripts/recipe_rule.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "grid.csv"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "muon: RecipeRule(" in done.stdout
    assert "learning rate  nats above the best" in done.stdout
