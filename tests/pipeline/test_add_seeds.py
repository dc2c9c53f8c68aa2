"""Seeds are added until every pair has a verdict, or up to the limit."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "report"))
from simulated_sweep import SHAPES, summary, write_run

from mobilellm.pipeline.add_seeds import add_seeds, sweep_folder

WIDE, DEEP = SHAPES["2×208"][0], SHAPES["24×64"][0]


@pytest.fixture(autouse=True)
def verdicts_only(monkeypatch):
    """No measured latencies, which load torch in a process of its own, and no plots."""
    monkeypatch.setattr("mobilellm.report.latency.AUTOMATIC_SHAPES", 0)
    monkeypatch.setattr(import_module("mobilellm.report.compare"), "write_plots", no_plots)


def no_plots(*_, **__):
    return []


class Trainer:
    """Writes runs instead of training; `losses` by shape."""

    def __init__(self, folder, *losses, noise=0.004, fails_at=None):
        self.folder, self.losses, self.noise, self.fails_at = folder, losses, noise, fails_at
        self.calls = []

    def __call__(self, overrides):
        *_, last = overrides
        seeds = [int(seed) for seed in last.removeprefix("seed=").split(",")]
        self.calls.append(seeds)
        if self.fails_at in seeds:
            return 1
        for seed in seeds:
            random = np.random.default_rng(seed)
            for name, config, loss in zip("ab", (WIDE, DEEP), self.losses, strict=True):
                run = self.folder / f"{name}{seed}"
                if not run.exists():
                    facts = summary(config, seed=seed, loss=loss + random.normal(0, self.noise))
                    write_run(run, facts)
        return 0


def decide(tmp_path, *losses, most=6, **options):
    lines = []
    trainer = Trainer(tmp_path / "sweep", *losses, **options.pop("trainer", {}))
    overrides = [f"output_dir={tmp_path}", "experiment_name=sweep"]
    comparison, code = add_seeds(overrides, most, tell=lines.append, train=trainer, **options)
    return comparison, code, trainer.calls, lines


def test_a_clear_difference_takes_three_seeds(tmp_path):
    comparison, code, calls, lines = decide(tmp_path, 4.1, 4.5)
    assert (code, calls, comparison.undecided) == (0, [[0, 1, 2]], ())
    assert comparison.pairs[0].verdict == "better" and comparison.max_seeds == 6
    assert lines == [
        "Look after 3 seeds of at most 6, at a level of 2.5 %: every pair has its verdict; no more "
        "seeds are needed."
    ]


@pytest.mark.slow
def test_equal_shapes_go_on_to_the_limit(tmp_path):
    comparison, _, calls, lines = decide(tmp_path, 4.2, 4.2, most=5)
    assert calls == [[0, 1, 2], [3], [4]]
    assert comparison.pairs[0].verdict == "not distinguishable"
    assert lines[0].endswith("1 pair without a verdict; add the next seed and compare again.")
    assert lines[-1].endswith("1 pair without a verdict at the limit, which ends the comparison.")


def test_equal_shapes_are_equivalent_within_a_margin(tmp_path):
    comparison, _, calls, _ = decide(tmp_path, 4.2, 4.2, most=6, margin=0.2)
    assert calls == [[0, 1, 2]]
    assert comparison.pairs[0].verdict == "equivalent"
    assert "are equivalent within 0.2 nats per token (difference " in comparison.verdict


def test_it_continues_from_the_runs_that_exist(tmp_path):
    decide(tmp_path, 4.2, 4.2, most=4)
    _, _, calls, _ = decide(tmp_path, 4.2, 4.2, most=5)
    assert calls == [[0, 1, 2], [4]]


def test_a_failed_sweep_ends_it(tmp_path):
    comparison, code, calls, _ = decide(tmp_path, 4.2, 4.2, trainer={"fails_at": 3})
    assert code == 1 and calls[-1] == [3]
    assert comparison is not None


@pytest.mark.parametrize(
    ("overrides", "most", "message"),
    [
        (["experiment=demo", "seed=0,1"], 5, r"seed=… cannot be given: the seeds are 0, 1, 2"),
        (["experiment=demo"], 2, "max_seeds=2 must be at least 3"),
    ],
)
def test_bad_input(overrides, most, message):
    with pytest.raises(ValueError, match=message):
        add_seeds(overrides, most)


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_bad_margin_is_refused_before_anything_is_trained(tmp_path, margin):
    with pytest.raises(ValueError, match=rf"margin={margin} must be .*; it is a difference in"):
        decide(tmp_path, 4.1, 4.5, margin=margin)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_that_of_the_sweep():
    assert sweep_folder(["experiment=demo", "model.num_blocks=2,4"]) == Path("outputs/demo")
    assert sweep_folder(["experiment=demo", "output_dir=runs"]) == Path("runs/demo")
