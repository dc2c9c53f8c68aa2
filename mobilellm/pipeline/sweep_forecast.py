"""Forecasts what the trials of a sweep cost, without training: `--dry-run` and `--max-hours`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.cli.console import make_console
from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.trial import Trial, without_hydra
from mobilellm.launchers.local.launcher import LocalLauncher
from mobilellm.launchers.monitor.progress import read_progress
from mobilellm.models.shape_name import shape_name
from mobilellm.pipeline.horizons import HORIZONS, HorizonRun, horizon_runs
from mobilellm.pipeline.hydra_job import hydra_job
from mobilellm.pipeline.parts import VALIDATIONS_PER_RUN
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.step_time import StepTime, measure_step_time
from mobilellm.units import count_text, duration_text, join_names, plural, si_text

SECONDS_PER_SHAPE = 1.0
"""How long the rate of each shape is measured."""

# Settings besides the model that the speed of a step depends on.
SPEED = ("sequence_length", "tokens_per_step", "micro_batch_size", "optimizer", "trainer")


@dataclass(frozen=True)
class TrialForecast:
    """What one trial still costs."""

    trial: Trial
    run: Run
    """The run with the full budget."""
    tokens: int
    """Training tokens that are left, over all runs of the trial."""
    budgets: tuple[int, ...]
    """Tokens of each run, the full budget last."""
    validations: int
    """Validations that are left."""
    seconds: float | None = None
    """None: not measured on this machine."""

    @property
    def flops(self) -> float:
        """FLOPs of training that are left."""
        length = self.run.config["sequence_length"]
        return self.tokens * float(flops_per_token(self.run.trained_model, length).training)


@dataclass(frozen=True)
class SweepForecast:
    """What the trials of a sweep still cost."""

    trials: tuple[TrialForecast, ...]
    at_a_time: int | None
    """Trials that run at the same time; None: other machines decide."""
    threads: int

    @property
    def flops(self) -> float:
        """FLOPs of training that are left."""
        return sum(one.flops for one in self.trials)

    @property
    def hours(self) -> float | None:
        """Wall time; None if a trial was not measured."""
        found = [one.seconds for one in self.trials if one.seconds is not None]
        if self.at_a_time is None or len(found) < len(self.trials):
            return None
        return max(*found, sum(found) / self.at_a_time) / 3600


def forecast_sweep(trials: Sequence[Trial], *, max_hours: float | None, is_dry_run: bool) -> None:
    """Forecast a sweep, print the forecast of a dry run, and refuse a sweep that takes too long.

    Args:
        trials: the checked trials.
        max_hours: the longest wall time that is accepted; None: no limit.
        is_dry_run: whether to print a table of all trials.

    Raises:
        ValueError: the forecast exceeds `max_hours`, or there is none because the trials run on
            other machines.
    """
    forecast = measure_sweep(trials)
    if is_dry_run:
        console = make_console(120)
        console.print(forecast_table(forecast))
        console.print("\n".join(forecast_lines(forecast)))
    if max_hours is not None:
        _check_hours(forecast, max_hours)


def measure_sweep(trials: Sequence[Trial]) -> SweepForecast:
    """Plan all trials and measure the speed of each different shape on this machine."""
    settings = trials[0].config.hydra.launcher
    launcher = str(settings._target_).rpartition(".")[2]
    at_a_time, threads = 1, torch.get_num_threads()
    if launcher == LocalLauncher.__name__:
        given = {k: v for k, v in dict(settings).items() if k != "_target_"}
        local = LocalLauncher(**given)
        at_a_time, threads = min(local.n_jobs, len(trials)), local.threads
    planned = [_planned(trial) for trial in trials]
    if any(hydra.config.hydra.launcher._target_.endswith("SlurmLauncher") for hydra in trials):
        return SweepForecast(tuple(planned), None, threads)
    before, times = torch.get_num_threads(), {}
    torch.set_num_threads(threads)
    try:
        found = tuple(_timed(one, times) for one in planned)
    finally:
        torch.set_num_threads(before)
    return SweepForecast(found, at_a_time, threads)


def _planned(trial: Trial) -> TrialForecast:
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(trial.config)
        cfg = without_hydra(trial.config)
        run, parts = _parts(cfg, on_this_machine=hydra_job().launcher != "slurm")
    finally:
        HydraConfig.instance().cfg = before
    tokens = validations = 0
    for part in parts:
        done = read_progress(part.folder)
        if done.status == "finished":
            continue
        start = max(part.start_tokens, done.tokens or 0)
        tokens += max(0, part.tokens - start)
        validations += _validations(part.config, part.tokens - start, part.tokens)
    return TrialForecast(trial, run, tokens, tuple(p.tokens for p in parts), validations)


def _parts(cfg: DictConfig, *, on_this_machine: bool) -> tuple[Run, list[HorizonRun]]:
    """The plan of a trial's full budget, and the runs that it consists of."""
    plan = partial(plan_run, on_this_machine=on_this_machine)
    if cfg.get(HORIZONS):
        return horizon_runs(cfg, plan)
    run = plan(cfg)
    # A budget of seconds alone counts as no tokens.
    tokens = (run.budget.total_steps or 0) * run.budget.tokens_per_step
    start = 0 if run.extension is None else run.extension.tokens
    return run, [HorizonRun(OmegaConf.create(run.config), None, run.folder, tokens, start)]


def _validations(config: Any, tokens: int, budget: int) -> int:
    interval = config["validation_interval_tokens"] or budget / VALIDATIONS_PER_RUN
    return max(1, round(tokens / interval))


def _timed(one: TrialForecast, times: dict[Any, StepTime]) -> TrialForecast:
    if not one.tokens:
        return replace(one, seconds=0.0)
    config = one.run.config
    key = (one.run.model, *(str(config[name]) for name in SPEED))
    if key not in times:
        times[key] = measure_step_time(one.run, seconds=SECONDS_PER_SHAPE)
    validated = one.validations * (config["validation_tokens"] or 0.0)
    seconds = one.tokens * times[key].training + validated * times[key].validation
    return replace(one, seconds=seconds)


def forecast_table(forecast: SweepForecast) -> Table:
    """One row per shape and budget; trials that differ only in the seed share one."""
    table = Table(box=None, pad_edge=False)
    names = ("shape", "trials", "body", "stored", "tokens", "steps", "FLOPs", "time each")
    for name in names:
        table.add_column(name, justify="left" if name == "shape" else "right", no_wrap=True)
    for members in _rows(forecast.trials):
        first = members[0]
        counts, model = count_parameters(first.run.model), first.run.model
        per_step = first.run.config["tokens_per_step"]
        seconds = sum(one.seconds or 0.0 for one in members) / len(members)
        left = [one for one in members if one.tokens]
        state = "finished" if not left else ""
        table.add_row(
            shape_name(model),
            str(len(members)),
            count_text(counts.body),
            count_text(counts.stored),
            count_text(first.budgets[-1]),
            f"{first.budgets[-1] // per_step:,}",
            state or si_text(sum(one.flops for one in members) / len(members)).rstrip(),
            state or ("not measured" if first.seconds is None else duration_text(seconds)),
        )
    return table


def _rows(trials: Sequence[TrialForecast]) -> Iterator[list[TrialForecast]]:
    rows: dict[Any, list[TrialForecast]] = {}
    for one in trials:
        rows.setdefault((one.run.model, one.budgets), []).append(one)
    yield from rows.values()


def forecast_lines(forecast: SweepForecast) -> list[str]:
    """The totals in sentences."""
    left = [one for one in forecast.trials if one.tokens]
    runs = sum(len(one.budgets) for one in forecast.trials)
    tokens = sum(one.tokens for one in left)
    lines = [
        f"{plural(len(forecast.trials), 'trial')}, {plural(runs, 'run')}; left to train: "
        f"{plural(len(left), 'trial')}, {count_text(tokens)} tokens, {si_text(forecast.flops)}FLOPs"
    ]
    shares = {tuple(round(t / one.budgets[-1], 2) for t in one.budgets) for one in forecast.trials}
    if len(shares) == 1 and len(only := shares.pop()) > 1:
        parts = join_names([f"{100 * share:g} %" for share in only[:-1]])
        lines.append(f"each trial also trains {parts} of the tokens, as runs of their own")
    hours = forecast.hours
    if hours is None:
        lines.append("no time: the trials run on other machines")
    elif left:
        lines.append(
            f"about {duration_text(3600 * hours)} on this machine, {forecast.at_a_time} at a time "
            f"with {plural(forecast.threads, 'thread')} each, from {SECONDS_PER_SHAPE:g} s of "
            "training per shape; starting processes, reading data, checkpoints, teachers and "
            "compression are not included, nor that trials that run together slow each other down"
        )
    return lines


def _check_hours(forecast: SweepForecast, max_hours: float) -> None:
    hours = forecast.hours
    if hours is None:
        raise CommandError(
            f"--max-hours {max_hours:g} needs trials that run on this machine; leave it out, and "
            "limit the time of the jobs instead (hydra.launcher.time_minutes=…)"
        )
    if hours > max_hours:
        raise CommandError(
            f"the forecast of this sweep is about {hours:.2g} hours "
            f"({si_text(forecast.flops)}FLOPs), more than --max-hours {max_hours:g}; use fewer "
            "seeds or smaller models, fewer tokens (max_tokens, tokens_per_parameter), or a larger "
            "limit; --dry-run shows the cost of each shape; no trial was started"
        )
