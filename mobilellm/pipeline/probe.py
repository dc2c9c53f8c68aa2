"""The learning rate of a shape, found by short runs before the long ones.

One rate for all widths favours the widths it happens to suit. So each shape first tries a few
rates, with one seed of their own and a share of the tokens; its seeds share what was found.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.pipeline.plan import Run
from mobilellm.pipeline.run import train_prepared
from mobilellm.pipeline.summary import is_first_process
from mobilellm.run_folder import RunIsBusy, find_run_folder, locked, read_summary
from mobilellm.training.budget import Budget

if TYPE_CHECKING:
    from mobilellm.data import PreparedData

PROBES = "probes"


def try_learning_rates(run: Run, prepared: "PreparedData") -> list[dict[str, float]]:
    """Train briefly with each rate; what was tried before, by any trial, is not tried again.

    Trials that run at the same time share the work: a rate that another one is trying is waited
    for only when nothing else is left to do.

    Returns:
        `learning_rate` and `val_loss` (nats per token) of each, by rising rate.
    """
    from mobilellm.training.ranks import agreed

    waiting = [_probe_run(run, factor) for factor in run.config["learning_rate_probe_factors"]]
    runs = sorted(waiting, key=lambda probe: probe.learning_rate)
    timeout = 0
    while waiting:
        busy = []
        for probe in waiting:
            with ExitStack() as stack:
                if not agreed(_lock(probe.folder, timeout, stack)):
                    busy.append(probe)
                elif not agreed(probe.is_finished()):
                    train_prepared(probe, prepared)
        waiting, timeout = busy, -1
    # The first process writes the summaries: the others might look too early.
    return agreed(
        [
            {"learning_rate": probe.learning_rate, "val_loss": summary["val_loss"]}
            for probe in (runs if is_first_process() else ())
            if (summary := read_summary(probe.folder)) is not None
        ]
    )


def _lock(folder: Path, timeout: float, stack: ExitStack) -> bool:
    """Whether the first of the run's processes, which decides for all, holds the lock."""
    if is_first_process():
        try:
            stack.enter_context(locked(folder, timeout))
        except RunIsBusy:
            return False
    return True


def _probe_run(run: Run, factor: float) -> Run:
    """The short run with the configured rate times `factor`."""
    config = run.config
    share = config["learning_rate_probe_share"]
    steps = run.budget.total_steps
    seconds = run.budget.max_seconds
    budget = Budget(
        tokens_per_step=run.budget.tokens_per_step,
        max_steps=None if steps is None else max(1, round(share * steps)),
        max_seconds=None if seconds is None else share * seconds,
    )
    changes = {
        "seed": config["learning_rate_probe_seed"],
        "learning_rate_probe": False,
        "optimizer": config["optimizer"] | {"learning_rate": run.learning_rate * factor},
        "max_tokens": budget.max_tokens,
        "max_steps": budget.max_steps,
        "max_seconds": budget.max_seconds,
    }
    overrides = [o for o in run.overrides if not o.startswith(("seed=", "learning_rate_probe"))]
    overrides.append(f"optimizer.learning_rate={run.learning_rate * factor:.2g}")
    parent = Path(config["output_dir"]) / config["experiment_name"] / PROBES
    return replace(
        run,
        config=config | changes,
        overrides=tuple(overrides),
        folder=find_run_folder(parent, config | changes, overrides),
        budget=budget,
        resume=True,
    )
