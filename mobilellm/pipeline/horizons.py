"""Several token budgets from one trunk: `horizons=[0.25,0.5]` branches the decay of a schedule.

A trial with horizons consists of ordinary runs. The first one trains the smallest share of the
tokens. Each further one continues from the plateau of the learning rate of the one before, so that
together they cost one long run and the decays of the shorter ones. Each run has a folder of its
own, is resumed and skipped like any other, and `extend_from` in its configuration names the run
before it. All have the settings of the full budget: learning rate, tokens per step, and warm-up.

Source: Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4; Hägele et al. 2024, arXiv:2405.18392.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.hydra_app.override_text import override_key
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.optim.schedules import Schedule, is_decaying
from mobilellm.pipeline.hydra_job import hydra_job, job_of
from mobilellm.pipeline.identity import PROBE, find_run_folder
from mobilellm.pipeline.parts import build_schedule
from mobilellm.pipeline.results import callback_of
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.token_budget import MAX_TOKENS, TOKEN_LIMITS
from mobilellm.training.training_budget import TrainingBudget

HORIZONS = "horizons"
# Settings of a trial that the runs it consists of replace by their own.
REPLACED = (HORIZONS, *TOKEN_LIMITS)


@dataclass(frozen=True)
class HorizonRun:
    """One of the runs that a trial with horizons consists of."""

    config: DictConfig
    """The configuration of the run, without horizons."""
    overrides: tuple[str, ...] | None
    """The overrides that describe it; None if there is no command line."""
    folder: Path
    tokens: int
    """Its budget."""
    start_tokens: int
    """Tokens that the run it continues from has trained on; 0 for the first one."""

    @contextmanager
    def as_job(self) -> Iterator[None]:
        """Let the current Hydra job be that of this run in a `with` block."""
        with job_of(self.overrides, distinguishing=(MAX_TOKENS,)):
            yield


def horizon_runs(
    cfg: DictConfig, plan: Callable[[DictConfig], Run]
) -> tuple[Run, list[HorizonRun]]:
    """The runs of a trial with horizons, from the smallest budget to the full one.

    The first item of the result is a plan of the full budget that starts from the beginning.

    Args:
        cfg: the composed configuration, with `horizons`.
        plan: plans an ordinary run.

    Raises:
        ValueError, TypeError, FileNotFoundError: the trial cannot be trained, or see `plan_run`.
    """
    _check_settings(checked_config("train", cfg))
    run = plan(_merged(cfg, {HORIZONS: None}))
    checkpoints = callback_of(CheckpointCallback, run.parts.callbacks)
    if checkpoints is None or not checkpoints.keep_plateau:
        raise ValueError(
            f"{_given(cfg)} continues from the checkpoint before the learning rate decays, which "
            "this run does not keep; use callbacks=default with "
            "callbacks.checkpoint.keep_plateau=true"
        )
    budgets = _budgets(cfg, run)
    node = _with_warmup_in_steps(run.config["schedule"], budgets[-1].total_steps or 0)
    schedule = build_schedule(node)
    starts = [0]
    for share, budget in zip([*cfg.horizons, 1.0], budgets, strict=True):
        starts.append(_last_of_plateau(share, budget, schedule) * budget.tokens_per_step)
    return run, _chain(run, budgets, starts, node)


def _check_settings(cfg: DictConfig) -> None:
    """Check the shares, and settings that horizons exclude."""
    shares = list(cfg.horizons)
    if shares != sorted(set(shares)):
        raise ValueError(
            f"{_given(cfg)} must be ascending, without equal shares; use "
            f"[{','.join(f'{share:g}' for share in sorted(set(shares)))}]"
        )
    reasons = {
        "extend_from": "starts new runs and extends them itself",
        PROBE: "trains all budgets with one learning rate that is known before the first run",
        "max_steps": "consists of shares of the tokens",
        "max_seconds": "consists of shares of the tokens",
        "compression": "continues runs with larger budgets, which compression does not allow",
    }
    for key, reason in reasons.items():
        if cfg.get(key):
            choice = "none" if key == "compression" else "false" if key == PROBE else "null"
            value = "" if OmegaConf.is_config(cfg[key]) else f"={cfg[key]}"
            raise ValueError(
                f"{_given(cfg)} {reason}, and excludes {key}{value}; set {key}={choice}, or "
                f"{HORIZONS}=null"
            )
    if cfg.max_tokens is None and all(cfg.get(name) is None for name in TOKEN_LIMITS):
        raise ValueError(f"{_given(cfg)} needs the full number of tokens; set max_tokens=…")


def _budgets(cfg: DictConfig, run: Run) -> list[TrainingBudget]:
    """The budget of each run; the last one is that of the trial."""
    per_step, total = run.budget.tokens_per_step, run.budget.total_steps or 0
    steps = [int(share * total + 1e-9) for share in cfg.horizons]
    if steps[0] < 1 or len({*steps, total}) <= len(steps):
        raise ValueError(
            f"{_given(cfg)} of {total:,} steps gives runs of {', '.join(map(str, steps))} steps; "
            "each must have at least one step more than the one before; use fewer horizons or "
            "more tokens"
        )
    return [
        TrainingBudget(tokens_per_step=per_step, max_tokens=count * per_step) for count in steps
    ] + [run.budget]


def _with_warmup_in_steps(node: dict[str, Any], total_steps: int) -> dict[str, Any]:
    """The node of a schedule whose warm-up has the length that it has in the full budget."""
    fraction = node.get("warmup_fraction")
    if not fraction:
        return node
    return node | {"warmup_fraction": None, "warmup_steps": max(1, round(fraction * total_steps))}


def _last_of_plateau(share: float, budget: TrainingBudget, schedule: Schedule) -> int:
    """The number of steps after which the next larger budget branches off.

    Raises:
        ValueError: the schedule has no plateau, or the run does not reach it.
    """
    if is_decaying(schedule, 1.0) is None:
        raise ValueError(
            f"{HORIZONS} needs a schedule with a plateau, from which the shorter runs branch off; "
            "use schedule=wsd or schedule=constant"
        )
    total = budget.total_steps or 0
    last = total
    while last > 0 and is_decaying(schedule, budget.progress(last)):
        last -= 1
    if last == 0 or schedule(last - 1, budget.progress(last)) < 1.0:
        raise ValueError(
            f"the run of {share:g} of the tokens, {total:,} steps, reaches no plateau: its "
            f"learning rate decays after step {last:,}, before the warm-up ends; use larger "
            f"{HORIZONS}, more tokens, or a shorter warm-up (schedule.warmup_steps=…)"
        )
    return last


def _chain(
    run: Run, budgets: list[TrainingBudget], starts: list[int], schedule: dict[str, Any]
) -> list[HorizonRun]:
    """The runs, each with the folder of the one before as `extend_from`."""
    job = hydra_job()
    chain: list[HorizonRun] = []
    for budget, start in zip(budgets, starts, strict=False):
        tokens = int(budget.max_tokens or 0)
        changes = dict.fromkeys(REPLACED) | {
            MAX_TOKENS: tokens,
            "schedule": schedule,
            "extend_from": str(chain[-1].folder) if chain else None,
        }
        config = run.config | changes
        overrides = None if job.overrides is None else _of_one_run(job.overrides, tokens)
        with job_of(overrides, distinguishing=(MAX_TOKENS,)):
            folder = find_run_folder(run.folder.parent, config, hydra_job().distinguishing)
        chain.append(HorizonRun(OmegaConf.create(config), overrides, folder, tokens, start))
    return chain


def _of_one_run(overrides: tuple[str, ...], tokens: int) -> tuple[str, ...]:
    kept = (o for o in overrides if override_key(o) not in (*REPLACED, "extend_from"))
    return (f"{MAX_TOKENS}={tokens}", *kept)


def _merged(cfg: DictConfig, changes: dict[str, Any]) -> DictConfig:
    return OmegaConf.create(dict(OmegaConf.to_container(cfg, resolve=True)) | changes)  # pyright: ignore


def _given(cfg: DictConfig) -> str:
    return f"{HORIZONS}=[{','.join(f'{share:g}' for share in cfg.horizons)}]"
