"""The comparison of tokens and time until a loss: search, rounds, file, and the script."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarks.time_to_loss import trials as trials_module
from scripts.benchmarks.time_to_loss.child import Clock, Trained, outcome
from scripts.benchmarks.time_to_loss.comparison import Comparison
from scripts.benchmarks.time_to_loss.measurement import measure, reached, results
from scripts.benchmarks.time_to_loss.table import table
from scripts.benchmarks.time_to_loss.trials import Trial, Trials
from scripts.benchmarks.time_to_loss.tuning import tune

ROOT = Path(__file__).parents[2]


class TestTuning:
    """Contenders whose loss is a known function of rate and batch."""

    def surface(self, optima):
        """Lowest at (rate, batch) of each name; a batch twice as large wants twice the rate."""
        calls = []

        def measured(name, rate, batch):
            calls.append((name, rate, batch))
            best_rate, best_batch = optima[name]
            away = math.log2(batch / best_batch)
            return (math.log2(rate / best_rate) - away) ** 2 + 0.1 * away**2

        return measured, calls

    def tuned(self, measured, names=("a", "b"), widenings=5):
        return tune(names, measured, learning_rates=(1.0, 2.0, 4.0, 8.0), tokens_per_step=512,
                    smallest=64, widenings=widenings)  # fmt: skip

    @pytest.mark.parametrize(
        "optima",
        [
            {"a": (2.0, 512), "b": (4.0, 512)},
            {"a": (16.0, 2048), "b": (1.0, 128)},
            {"a": (0.0625, 512), "b": (64.0, 512)},
            {"a": (0.5, 64), "b": (4.0, 1024)},
        ],
    )
    def test_every_optimum_is_found_with_equally_many_trials(self, optima):
        measured, calls = self.surface(optima)
        best = self.tuned(measured)
        for name, (rate, batch) in optima.items():
            assert (best[name].learning_rate, best[name].tokens_per_step) == (rate, batch)
            assert best[name].loss == 0
            assert best[name].rate_is_interior and best[name].batch_is_interior
        counts = [sum(call[0] == name for call in calls) for name in optima]
        assert counts[0] == counts[1] == best["a"].trials == best["b"].trials
        assert len(set(calls)) == len(calls)

    def test_rates_at_the_first_batch_are_the_same_for_all(self):
        measured, calls = self.surface({"a": (0.125, 512), "b": (4.0, 512)})
        self.tuned(measured)
        rates = {name: {r for n, r, batch in calls if n == name and batch == 512} for name in "ab"}
        assert rates["a"] == rates["b"] >= {0.0625, 0.125, 8.0}

    def test_an_optimum_beyond_the_last_widening_is_reported(self):
        measured, _ = self.surface({"a": (2.0**-9, 512), "b": (4.0, 2**14)})
        best = self.tuned(measured, widenings=1)
        assert not best["a"].rate_is_interior
        assert best["b"].rate_is_interior is False or not best["b"].batch_is_interior

    def test_divergence_is_worse_than_any_loss(self):
        def measured(name, rate, batch):
            return float("inf") if rate > 2 else 1 / rate + batch

        best = tune(("a",), measured, learning_rates=(1.0, 2.0, 4.0), tokens_per_step=128,
                    smallest=128, widenings=2)["a"]  # fmt: skip
        assert (best.learning_rate, best.tokens_per_step) == (2.0, 128)
        assert best.batch_is_interior  # a batch cannot be smaller than a window


class TestMeasurement:
    def outcome(self, loss, seconds):
        return {"loss": loss, "wall_seconds": seconds, "processor_seconds": seconds / 2,
                "start_seconds": 1.0, "tokens": 1000, "tokens_per_step": 10,
                "learning_rate": 0.1}  # fmt: skip

    def found(self, losses, seconds=None):
        """losses: (name, share) -> one per seed."""
        self.calls = []

        def run(name, share, seed):
            self.calls.append((name, share, seed))
            took = (seconds or {}).get((name, share), [100 * share] * 3)[seed]
            return self.outcome(losses[name, share][seed], took)

        others = [name for name, _ in losses if name != "ours"]
        shares = [share for name, share in losses if name == "ours"]
        return measure(run, others, shares, seeds=range(3))

    def test_the_smallest_budget_whose_mean_loss_is_reached_counts(self):
        found = self.found(
            {
                ("litgpt", 1.0): [4.0, 4.1, 4.2],
                ("adamw", 1.0): [3.0, 3.0, 3.0],
                ("ours", 0.5): [4.3, 4.0, 4.1],
                ("ours", 0.7): [4.1, 4.0, 4.19],
                ("ours", 1.0): [3.9, 3.9, 3.9],
            },
            {("litgpt", 1.0): [100, 200, 100], ("ours", 0.7): [50, 20, 90]},
        )
        litgpt, adamw = reached(found)
        assert (litgpt.contender, litgpt.share_of_tokens) == ("litgpt", 0.7)
        assert litgpt.wall_ratios == (0.5, 0.1, 0.9)
        assert litgpt.wall_ratio == litgpt.processor_ratio == 0.5
        assert (adamw.share_of_tokens, adamw.wall_ratio) == (None, None)

    def test_rounds_alternate_and_every_budget_is_a_run_of_its_own(self):
        self.found({("a", 1.0): [1] * 3, ("ours", 0.5): [1] * 3, ("ours", 1.0): [1] * 3})
        jobs = [("a", 1.0), ("ours", 0.5), ("ours", 1.0)]
        expected = [*((*job, 0) for job in jobs), *((*job, 1) for job in jobs[::-1]),
                    *((*job, 2) for job in jobs)]  # fmt: skip
        assert self.calls == expected

    def test_a_diverged_run_reaches_nothing_and_is_no_target(self):
        found = self.found({("a", 1.0): [4.0] * 3, ("b", 1.0): [4.0, None, 4.0],
                            ("ours", 1.0): [3.0, None, 3.0]})  # fmt: skip
        assert [one.share_of_tokens for one in reached(found)] == [None, None]

    def test_the_table_fits_80_columns(self):
        from rich.console import Console

        found = self.found({("huggingface", 1.0): [4.123, 4.1, 4.2], ("adamw", 1.0): [3.0] * 3,
                            ("litgpt", 1.0): [4.5] * 3, ("ours", 0.85): [4.0, 4.1, 4.2],
                            ("ours", 1.0): [3.9] * 3})  # fmt: skip
        console = Console(width=80)
        with console.capture() as printed:
            console.print(table(results(found)))
        lines = [line.split() for line in printed.get().splitlines() if line.strip()]
        [huggingface] = [line for line in lines if line[0] == "HF"]
        assert huggingface[1:] == [
            "Trainer",
            "0.1",
            "10",
            "1k",
            "4.141",
            "±0.050",
            "100.0",
            "0.85",
            "0.85",
        ]
        assert [line[-2:] for line in lines if "AdamW" in line] == [["not", "reached"]]


class TestTrials:
    settings = MappingProxyType({"parameters": 5, "threads": 1, "hashes": {"train": "a"}})
    trial = Trial(contender="adamw", max_tokens=100, seed=0, tokens_per_step=10)

    def test_a_finished_trial_is_not_run_again(self, tmp_path, monkeypatch):
        runs = []

        def run(trial, settings, corpus):
            runs.append(trial)
            return {"loss": 4.0, "parameters": 5}

        monkeypatch.setattr(trials_module, "run_in_process", run)
        for _ in range(2):
            trials = Trials(tmp_path / "a.json", self.settings)
            assert trials.outcome(self.trial, tmp_path)["loss"] == 4.0
        assert len(runs) == 1
        other = Trial(contender="adamw", max_tokens=100, seed=1, tokens_per_step=10)
        trials.outcome(other, tmp_path)
        assert runs == [self.trial, other]

    def test_another_number_of_parameters_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            trials_module, "run_in_process", lambda *_: {"loss": 4.0, "parameters": 6}
        )
        with pytest.raises(RuntimeError, match="adamw trained 6 parameters, not 5"):
            Trials(tmp_path / "a.json", self.settings).outcome(self.trial, tmp_path)

    def test_a_file_with_other_data_is_refused(self, tmp_path):
        Trials(tmp_path / "a.json", self.settings).write()
        changed = self.settings | {"hashes": {"train": "b"}}
        with pytest.raises(ValueError, match=r"other settings: hashes=.*use another\s--out"):
            Trials(tmp_path / "a.json", changed)


def test_the_clock_measures_from_the_first_start_to_the_last_stop():
    clock = Clock()
    with pytest.raises(RuntimeError, match="not timed"):
        clock.seconds()
    clock.start()
    clock.stop()
    short = clock.seconds()[0]
    clock.start()
    sum(range(100_000))
    clock.stop()
    assert clock.seconds()[0] > short >= 0


def test_a_diverged_trial_has_no_loss():
    assert outcome(Trained(None), Clock(), {}) == {"loss": None}


SMALL = [
    "model=by_budget", "model.budget=10336", "model.match=body", "model.num_blocks=1",
    "model.group_size=1", "model.vocab_size=512", "data=stdlib", "sequence_length=32",
    "max_tokens=2048", "validation_tokens=512",
]  # fmt: skip


def run_script(*options, overrides=(), **environment):
    line = [*SMALL, *overrides, "--quick", "--widenings", "0", "--tokens-per-step", "64",
            *options]  # fmt: skip
    return subprocess.run(
        [sys.executable, "scripts/time_to_loss.py", *line], cwd=ROOT, capture_output=True,
        encoding="utf-8", check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "litgpt needs LITGPT_PYTHON, the path of a Python that has litgpt"),
        ({"contenders": ("adamw",), "shares": (1.5,)}, r"--shares \(1.5,\) must be above 0"),
        ({"contenders": (), "seeds": (0, 0)}, r"--seeds \(0, 0\) must differ from each other"),
        ({"contenders": (), "seeds": (0, 1000)}, "and from 1000, the seed of the tuning"),
        ({"contenders": (), "learning_rates": (0.0,)}, r"--learning-rates \(0.0,\) must be above"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message, monkeypatch):
    monkeypatch.setenv("LITGPT_PYTHON", "")
    fields = {"overrides": (), "recipe": (), "contenders": ("adamw", "litgpt"), "seeds": (0,),
              "learning_rates": (1e-3,), "tokens_per_step": 512, "widenings": 1,
              "shares": (1.0,), "threads": 1}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        Comparison(**fields | changes).check()


@pytest.mark.slow
def test_a_short_comparison(tmp_path):
    names = {"litgpt": "LITGPT_PYTHON", "huggingface": "HUGGINGFACE_PYTHON"}
    contenders = ["adamw", *(name for name, key in names.items() if os.environ.get(key))]
    out = tmp_path / "out.json"
    options = ["--contenders", *contenders, "--recipe", "tokens_per_step=64", "--out", str(out)]
    overrides = [f"prepared_dir={tmp_path}/data", f"output_dir={tmp_path}/outputs"]
    ended = run_script(*options, overrides=overrides)
    assert ended.returncode == 0, ended.stderr
    assert "our recipe" in ended.stdout
    table, _, _ = ended.stdout.partition("Written to")
    assert max(len(line) for line in table.splitlines()) <= 80
    written = json.loads(out.read_text(encoding="utf-8"))
    counts = {one["outcome"]["parameters"] for one in written["trials"]}
    assert counts == {written["settings"]["parameters"]}
    rows = {(row["contender"], row["share"]): row for row in written["results"]["rows"]}
    assert set(rows) == {*((name, 1.0) for name in contenders), ("ours", 0.5), ("ours", 1.0)}
    assert rows["ours", 0.5]["tokens"] * 2 == pytest.approx(rows["ours", 1.0]["tokens"], rel=0.1)
    again = run_script(*options, overrides=overrides)
    assert again.returncode == 0 and again.stdout == ended.stdout
