"""Several token budgets from one trunk, by branching the decay of the learning rate."""

import json
import logging

import pytest
from killed_runs import assert_same, rows
from omegaconf import OmegaConf

from mobilellm.cli.command import Stopped
from mobilellm.hydra_app.configuration import compose, config_loader
from mobilellm.hydra_app.sweep_check import check_sweep
from mobilellm.pipeline.horizons import horizon_runs
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.sweep import check_run

STEPS = ["schedule.warmup_steps=2", "schedule.warmup_fraction=null"]
WSD = [
    "schedule=wsd",
    "schedule.decay_fraction=0.2",
    *STEPS,
    "log_interval_steps=1",
    "max_tokens=2560",
]
CHAIN = [*WSD, "horizons=[0.25,0.5]"]
STOP = ["+callbacks.stop._target_=stopping.StopAt"]


def runs_in(tmp_path, experiment="default"):
    """Finished and unfinished runs by the number of steps of their budget."""
    found = {}
    for path in (tmp_path / "outputs" / experiment).glob("*/summary.json"):
        summary = json.loads(path.read_text(encoding="utf-8"))
        found[summary["max_tokens"] / 128] = (path.parent, summary)
    return found


def test_each_horizon_is_the_run_of_its_own_budget(tiny_run, tmp_path):
    """Bit for bit the same models as from three runs that each start from the beginning."""
    summary = tiny_run(*CHAIN)
    runs = runs_in(tmp_path)
    assert sorted(runs) == [5, 10, 20]
    assert summary == runs[20][1]
    assert {run["status"] for _, run in runs.values()} == {"finished"}
    assert [runs[n][1].get("parent_tokens") for n in (5, 10, 20)] == [None, 384, 896]
    for steps, (folder, run) in runs.items():
        assert (run["steps"], run["tokens"]) == (steps, steps * 128)
        tiny_run(*WSD, f"max_tokens={steps * 128}", f"experiment_name=whole{steps:.0f}")
        [(whole, other)] = runs_in(tmp_path, f"whole{steps:.0f}").values()
        assert other.get("parent_tokens") is None
        assert run["val_loss"] == other["val_loss"]
        assert weights_of(folder) == weights_of(whole)
        recorded = OmegaConf.load(folder / "config.yaml")
        assert (recorded.max_tokens, recorded.horizons) == (steps * 128, None)
    assert_same(runs[5][0], runs_in(tmp_path, "whole5")[5][0])
    # Trunk and decays: the twenty steps of the longest, and what the shorter ones decayed.
    assert sum(run["steps"] - (run.get("parent_tokens") or 0) // 128 for _, run in runs.values()) \
        == 20 + 2 + 3  # fmt: skip


def weights_of(folder):
    return (folder / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_trial_continues_where_it_was(tiny_run, tmp_path, caplog):
    tiny_run(*CHAIN, "experiment_name=whole")
    for step, left in ((3, [5]), (7, [5, 10]), (15, [5, 10, 20])):
        with pytest.raises(Stopped):
            tiny_run(*CHAIN, *STOP, f"+callbacks.stop.step={step}", "resume=true")
        assert sorted(runs_in(tmp_path)) == left
    before = {n: (folder / "metrics.csv").stat().st_mtime for n, (folder, _) in
              runs_in(tmp_path).items()}  # fmt: skip
    with caplog.at_level(logging.INFO):
        tiny_run(*CHAIN, *STOP, "+callbacks.stop.step=99", "resume=true")
    runs, whole = runs_in(tmp_path), runs_in(tmp_path, "whole")
    for steps in (5, 10, 20):
        assert_same(runs[steps][0], whole[steps][0])
    changed = [n for n, (f, _) in runs.items() if (f / "metrics.csv").stat().st_mtime != before[n]]
    assert changed == [20], "finished horizons are not trained again"


def test_all_horizons_have_the_warmup_of_the_full_budget(tiny_run, tmp_path):
    tiny_run("schedule=wsd", "schedule.warmup_fraction=0.15", "log_interval_steps=1",
             "max_tokens=2560", "horizons=[0.4]")  # fmt: skip
    runs = runs_in(tmp_path)
    for steps in (8, 20):
        rates = [float(row["learning_rate"] or 0) for row in rows(runs[steps][0])[1:5]]
        assert rates == pytest.approx([2e-3 / 3, 2e-3 * 2 / 3, 2e-3, 2e-3])


@pytest.mark.slow
def test_constant_rates_have_horizons_without_decays(tiny_run, tmp_path):
    tiny_run("schedule=constant", *STEPS, "max_tokens=2560", "horizons=[0.5]")
    runs = runs_in(tmp_path)
    assert [runs[n][1].get("parent_tokens") for n in (10, 20)] == [None, 1280]


def test_a_sweep_knows_the_folder_of_the_full_budget(tiny_overrides, command, tmp_path):
    """So that it shows the state of the trial, and skips it once it is finished."""
    summary = command(*CHAIN, "seed=3")
    for steps, (folder, run) in runs_in(tmp_path).items():
        assert folder.name.startswith(f"max_tokens-{steps * 128:.0f}_")
        assert run["overrides"][0] == f"max_tokens={steps * 128:.0f}"
        assert not any(override.startswith("horizons") for override in run["overrides"])
    with config_loader() as loader:
        lines = [*tiny_overrides, *CHAIN, "seed=3,4", "hydra.mode=MULTIRUN"]
        trials = check_sweep(loader, "train", lines, check_run)
    assert (trials[0].folder.name, trials[1].folder.exists()) == (summary["run"], False)
    with pytest.raises(ValueError, match="is a finished run and is never overwritten"):
        command(*CHAIN, "seed=3")


def test_tokens_per_parameter_is_that_of_the_full_budget(tiny_overrides):
    lines = [*tiny_overrides, *CHAIN, "max_tokens=null", "tokens_per_parameter=3"]
    configs = [run.config for run in horizon_runs(compose("train", lines), plan_run)[1]]
    full = configs[-1].max_tokens
    assert full == plan_run(compose("train", [*lines, "horizons=null"])).config["max_tokens"]
    steps = full // 128
    assert [c.max_tokens for c in configs[:-1]] == [steps // 4 * 128, steps // 2 * 128]
    assert {c.tokens_per_parameter for c in configs} == {None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["horizons=[0.5,0.25]"], r"horizons=\[0.5,0.25\] must be ascending, without equal shares; "
                                  r"use \[0.25,0.5\]"),
        (["horizons=[1.0]"], r"horizons=\[1.0\] must be a list in which each item is a number "
                             r"above 0 and below 1; null trains one budget"),
        (["schedule=cosine"], "needs a schedule with a plateau, .*use schedule=wsd or"),
        (["callbacks.checkpoint=null"],
         "continues from the checkpoint before .* use callbacks=default"),
        (["callbacks.checkpoint.keep_plateau=false"], "keep_plateau=true"),
        (["max_steps=100"], r"consists of shares of the tokens, and excludes max_steps=100; set "
                            r"max_steps=null, or horizons=null"),
        (["learning_rate_probe=true"], "set learning_rate_probe=false"),
        (["extend_from=x"], "excludes extend_from=x; set extend_from=null"),
        (["compression=magnitude"], "excludes compression; set compression=none"),
        (["max_tokens=null"], "needs the full number of tokens; set max_tokens"),
        (["horizons=[0.01,0.5]"], r"of 20 steps gives runs of 0, 10 steps; each must have"),
        (["horizons=[0.5,0.51]"], r"gives runs of 10, 10 steps"),
        (["schedule.warmup_steps=5"], r"the run of 0.25 of the tokens, 5 steps, reaches no plateau:"
                                      r" its learning rate decays after step 3, before the warm-up "
                                      r"ends; use larger horizons, more tokens, or a shorter"),
    ],
)  # fmt: skip
def test_refusals(tiny_overrides, tmp_path, overrides, message):
    kept = [] if "schedule=cosine" in overrides else ["schedule=wsd", "schedule.decay_fraction=0.2"]
    with pytest.raises(ValueError, match=message):
        check_run(compose("train", [*tiny_overrides, *kept, *STEPS, "max_tokens=2560",
                                    "horizons=[0.25,0.5]", *overrides]))  # fmt: skip
    assert not (tmp_path / "outputs").exists()
