"""What a sweep costs, before it is trained: `--dry-run` and `--max-hours`."""

import pytest
import torch

from mobilellm.cli.errors import CommandError
from mobilellm.commands import train as train_command
from mobilellm.hydra_app.application import HydraApplication
from mobilellm.hydra_app.configuration import compose, config_loader
from mobilellm.hydra_app.sweep_check import check_sweep
from mobilellm.pipeline import sweep_forecast, train_run
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.step_time import measure_step_time
from mobilellm.pipeline.sweep import check_run
from mobilellm.pipeline.sweep_forecast import forecast_lines, measure_sweep

WSD = ["schedule=wsd", "schedule.warmup_steps=2", "schedule.warmup_fraction=null",
       "max_tokens=2560", "horizons=[0.25,0.5]"]  # fmt: skip


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(sweep_forecast, "SECONDS_PER_SHAPE", 0.02)


@pytest.fixture
def trials(tiny_overrides):
    def checked(*overrides):
        with config_loader() as loader:
            lines = [*tiny_overrides, "hydra.mode=MULTIRUN", *overrides]
            return check_sweep(loader, "train", lines, check_run)

    return checked


def test_tokens_flops_and_time_of_all_trials(trials):
    threads = torch.get_num_threads()
    found = measure_sweep(trials("model.num_blocks=1,2,3", "seed=0,1", "hydra/launcher=local",
                                 "hydra.launcher.n_jobs=2"))  # fmt: skip
    assert [one.tokens for one in found.trials] == [1536] * 6
    by_depth = {one.run.model.num_blocks: one.flops for one in found.trials}
    assert by_depth[3] - by_depth[2] == pytest.approx(by_depth[2] - by_depth[1])
    total = sum(one.seconds for one in found.trials)
    assert found.flops == 2 * sum(by_depth.values())
    assert found.hours * 3600 == pytest.approx(total / 2)
    same = [one.seconds for one in found.trials if one.run.model.num_blocks == 2]
    assert same[0] == same[1], "each shape is measured once"
    assert torch.get_num_threads() == threads


def test_horizons_cost_their_trunk_and_decays(trials, tiny_run):
    """Decays of half: branches after 2 and 5 of 20 steps, each to its end; the longest has 20."""
    [one] = measure_sweep(trials(*WSD, "seed=3", "hydra/launcher=basic")).trials
    assert one.budgets == (640, 1280, 2560)
    assert one.tokens == (5 + (10 - 2) + (20 - 5)) * 128
    tiny_run(*WSD, "seed=3")
    [left] = measure_sweep(trials(*WSD, "seed=3", "hydra/launcher=basic")).trials
    assert (left.tokens, left.seconds, left.flops) == (0, 0, 0)
    assert "0 trials, 0 tokens" in forecast_lines(measure_sweep(trials(*WSD, "seed=3")))[0]


def test_larger_models_take_longer(tiny_overrides):
    times = [
        measure_step_time(
            plan_run(compose("train", [*tiny_overrides, f"model.num_blocks={depth}"])), seconds=0.1
        )
        for depth in (1, 16)
    ]
    assert times[1].training > 3 * times[0].training
    assert all(0 < one.validation < one.training for one in times)


def application():
    return HydraApplication(
        train_run, "train", check="mobilellm.pipeline.check_run",
        forecast="mobilellm.pipeline.forecast_sweep", sweep_dir="${output_dir}",
    )  # fmt: skip


def test_a_dry_run_trains_nothing(tiny_overrides, tmp_path, capsys):
    line = [*tiny_overrides, *WSD, "-m", "seed=0,1", "model.num_blocks=1,2",
            "hydra/launcher=basic", "--dry-run"]  # fmt: skip
    assert application().run(line) == 0
    out = capsys.readouterr().out
    assert "4 trials, 12 runs; left to train: 4 trials, " in out
    assert "each trial also trains 25 % and 50 % of the tokens, as runs of their own" in out
    rows = [row.split() for row in out.splitlines() if "×8 " in row]
    assert [row[:2] for row in rows] == [["1×8", "2"], ["2×8", "2"]]
    assert all(row[4:6] == ["2.56k", "20"] for row in rows)
    assert max(map(len, out.splitlines()[:3])) <= 80
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-m", "seed=0,1", "hydra/launcher=basic", "--max-hours", "1e-9"],
         r"the forecast of this sweep is about .* hours \(.*FLOPs\), more than --max-hours 1e-09; "
         r"use fewer seeds or smaller models, fewer tokens .* no trial was started"),
        (["-m", "seed=0,1", "hydra/launcher=slurm", "--max-hours", "1"],
         "needs trials that run on this machine"),
        (["--dry-run"], "--dry-run needs a sweep of known trials"),
        (["--max-hours", "3"], "--max-hours 3 needs a sweep of known trials"),
    ],
)  # fmt: skip
def test_refusals(tiny_overrides, tmp_path, monkeypatch, flags, message):
    # Whether sbatch exists on this machine does not matter for the forecast.
    monkeypatch.setattr("mobilellm.launchers.slurm.launcher.SlurmLauncher.prepare", lambda _: None)
    with pytest.raises(CommandError, match=message):
        application().run([*tiny_overrides, *flags])
    assert not (tmp_path / "outputs").exists()


def test_help_names_the_flags(capsys):
    with pytest.raises(SystemExit):
        train_command.main(["--help"])
    assert "--dry-run " in capsys.readouterr().out
