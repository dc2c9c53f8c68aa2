"""The learning-rate probe: short runs that choose the learning rate of an architecture.

A comparison of architectures with one learning rate favours those that this rate suits. Therefore
each architecture first tries several rates, with a separate seed and on a share of the tokens. Runs
of the same architecture with other seeds reuse the result. If the best rate is the lowest or the
highest one, further rates beyond it are tried.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mobilellm.checkpoint_files import last_checkpoint
from mobilellm.data import PreparedData
from mobilellm.pipeline.fit import fit
from mobilellm.pipeline.identity import RATE, config_hash, find_run_folder
from mobilellm.pipeline.parts import build_optimizer, build_parts
from mobilellm.pipeline.probe_factors import further_factor
from mobilellm.pipeline.results import LearningRateTrial
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.summary import recording
from mobilellm.run_folder import read_summary
from mobilellm.run_lock import RunIsBusy, lock_run_folder
from mobilellm.run_settings import DERIVED_LIMITS, EPOCHS
from mobilellm.training.divergence import TrainingDiverged
from mobilellm.training.ranks import broadcast_from_first, is_first_process
from mobilellm.training.training_budget import TrainingBudget

logger = logging.getLogger(__name__)

PROBES = "probes"


def probe_learning_rate(
    run: Run, prepared: PreparedData
) -> tuple[Run, list[LearningRateTrial] | None]:
    """If the configuration asks for it, try learning rates and choose the best one.

    Returns:
        The run with that learning rate, and the results of `try_learning_rates`; None without a
        probe.

    Raises:
        ValueError: training diverged with every rate.
    """
    if not run.config["learning_rate_probe"]:
        return run, None
    # A run that has begun keeps its rate: it may have been chosen without widening.
    trials = broadcast_from_first(_recorded(run)) or try_and_widen(run, prepared)
    optimizer = run.config["optimizer"] | {"learning_rate": best_learning_rate(trials)}
    if is_first_process():
        logger.info("%s", describe_choice(trials))
    parts = replace(run.parts, optimizer=build_optimizer(optimizer, run.parts.parametrization))
    return replace(run, config=run.config | {"optimizer": optimizer}, parts=parts), trials


def best_learning_rate(trials: Sequence[LearningRateTrial]) -> float:
    """The learning rate with the lowest validation loss.

    Raises:
        ValueError: training diverged with every rate.
    """
    usable = [trial for trial in trials if trial.has_finite_loss]
    if not usable:
        rates = ", ".join(f"{trial.learning_rate:g}" for trial in trials)
        raise ValueError(
            f"learning_rate_probe: training diverged with each of the learning rates {rates}; give "
            "a lower optimizer.learning_rate, or lower learning_rate_probe_factors"
        )
    return min(usable, key=lambda trial: trial.val_loss or 0.0).learning_rate


def describe_choice(trials: Sequence[LearningRateTrial]) -> str:
    """One line for the log: the chosen learning rate, and the validation loss of each rate."""
    losses = (
        f"{trial.learning_rate:g} "
        + (f"({trial.val_loss:.3f} nats per token)" if trial.has_finite_loss else "(diverged)")
        for trial in trials
    )
    return f"learning rate {best_learning_rate(trials):g}, the best of {', '.join(losses)}"


def _recorded(run: Run) -> list[LearningRateTrial] | None:
    """The trials that were recorded before the run began; None if it has not begun."""
    if last_checkpoint(run.folder) is None:
        return None
    trials = (read_summary(run.folder) or {}).get("learning_rates_tried")
    return trials and [LearningRateTrial(**trial) for trial in trials]


def try_and_widen(run: Run, prepared: PreparedData) -> list[LearningRateTrial]:
    """Try the configured factors, and further ones while the best is the lowest or highest.

    Returns:
        The results, in order of increasing learning rate.
    """
    factors = sorted(run.config["learning_rate_probe_factors"])
    trials = try_learning_rates(run, prepared, factors)
    for _ in range(run.config["learning_rate_probe_widenings"]):
        losses = [trial.val_loss if trial.has_finite_loss else None for trial in trials]
        further = further_factor(factors, losses)
        if further is None:
            break
        if is_first_process():
            logger.info(
                "the best learning rate so far is the lowest or highest; trying %g as well",
                run.learning_rate * further,
            )
        factors = sorted([*factors, further])
        trials = try_learning_rates(run, prepared, factors)
    return trials


def try_learning_rates(
    run: Run, prepared: PreparedData, factors: Sequence[float]
) -> list[LearningRateTrial]:
    """Train briefly with each learning rate that no other trial of the sweep has tried before.

    Trials that run at the same time share the work: a trial waits for a rate that another one is
    trying only if nothing else is left to do.

    Args:
        run: with the configured rate.
        prepared: its data.
        factors: of the configured rate.

    Returns:
        The results, in order of increasing learning rate.
    """
    waiting = [_probe_run(run, factor) for factor in factors]
    runs = sorted(waiting, key=lambda probe: probe.learning_rate)
    timeout = 0
    while waiting:
        busy = []
        for probe in waiting:
            with ExitStack() as stack:
                if not broadcast_from_first(_lock(probe.folder, timeout, stack)):
                    busy.append(probe)
                elif not broadcast_from_first(_is_tried(probe)):
                    _try(probe, prepared)
        waiting, timeout = busy, -1
    # Only the first process writes the summaries, so the others could read them too early.
    return broadcast_from_first(
        [
            LearningRateTrial(learning_rate=probe.learning_rate, val_loss=summary.get("val_loss"))
            for probe in (runs if is_first_process() else ())
            if (summary := read_summary(probe.folder)) is not None
        ]
    )


def _try(probe: Run, prepared: PreparedData) -> None:
    """Train with one learning rate; a divergence is a result, which the summary records."""
    # The callbacks and loggers must write to the probe's own folder.
    parts = build_parts(probe.config, probe.folder, probe.budget, probe.parts.schedule)
    try:
        with recording(probe, prepared) as summary:
            summary.finish(fit(replace(probe, parts=parts), prepared))
    except TrainingDiverged as error:
        logger.warning("learning rate %g: %s", probe.learning_rate, error)


def _is_tried(probe: Run) -> bool:
    summary = read_summary(probe.folder) or {}
    return summary.get("status") == "finished" or summary.get("diverged", False)


def _lock(folder: Path, timeout: float, stack: ExitStack) -> bool:
    """Try to lock the folder; only the first process does, and its result counts for all."""
    if is_first_process():
        try:
            stack.enter_context(lock_run_folder(folder, timeout))
        except RunIsBusy:
            return False
    return True


def _probe_run(run: Run, factor: float) -> Run:
    """The short run with `factor` times the configured rate; its parts are still those of `run`."""
    config = run.config
    share = config["learning_rate_probe_share"]
    steps = run.budget.total_steps
    seconds = run.budget.max_seconds
    budget = TrainingBudget(
        tokens_per_step=run.budget.tokens_per_step,
        max_steps=None if steps is None else max(1, round(share * steps)),
        max_seconds=None if seconds is None else share * seconds,
    )
    changes = {
        "seed": config["learning_rate_probe_seed"],
        "learning_rate_probe": False,
        "optimizer": config["optimizer"] | {"learning_rate": run.learning_rate * factor},
        **dict.fromkeys((*DERIVED_LIMITS, EPOCHS)),
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
        identity=config_hash(config | changes),
        rule_choice=run.rule_choice and run.rule_choice.without(RATE),
        changes=(),
        budget=budget,
        resume=True,
    )
