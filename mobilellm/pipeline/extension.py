"""Continues a finished run with a larger budget in a new folder: `extend_from=RUN`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mobilellm.checkpoint_files import CHECKPOINTS, PLATEAU_CHECKPOINT, last_checkpoint
from mobilellm.data import PreparedData
from mobilellm.hydra_app.configuration import plain_config
from mobilellm.hydra_app.override_text import override_key
from mobilellm.optim.schedules import Schedule, continue_from_plateau, is_decaying, rewarmed
from mobilellm.paths import user_path
from mobilellm.pipeline.identity import PROBE, RATE, identity, read_config
from mobilellm.pipeline.recipe_rule import AUTO
from mobilellm.pipeline.recipe_rule import CHOSEN as CHOSEN_BY_RULE
from mobilellm.pipeline.recorded import MISSING, differing, gives, replaced
from mobilellm.pipeline.token_budget import TOKEN_LIMITS, without_other_limits
from mobilellm.run_folder import read_summary
from mobilellm.run_settings import DERIVED_LIMITS, EPOCHS, Config
from mobilellm.training.atomic_save import read_checkpoint
from mobilellm.training.training_budget import TrainingBudget

# Settings that may differ from the extended run, besides those that cannot change the result.
FREE = ("extend_from", "max_tokens", "max_steps", "max_seconds", *DERIVED_LIMITS, EPOCHS,
        "validation_tokens", "validation_interval_tokens", PROBE)  # fmt: skip
# Groups whose choice is not recorded in the configuration.
CHOSEN = ("experiment", "variant")
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Extension:
    """The state of a finished run that a new run continues from."""

    parent: Path
    """Folder of the finished run."""
    checkpoint: Path
    """The checkpoint that the new run starts from."""
    steps: int
    """Optimizer steps completed at the checkpoint."""
    tokens: int
    """Tokens trained on until the checkpoint."""
    seconds: float
    """Wall time of training until the checkpoint."""
    rewarmed: bool
    """Whether the learning rate has already decayed and is raised again."""

    def to_dict(self) -> dict[str, object]:
        """Facts for summary.json."""
        return {
            "extended_from": str(self.parent),
            "rewarmed": self.rewarmed,
            "parent_steps": self.steps,
            "parent_tokens": self.tokens,
        }

    def describe(self) -> str:
        """One line for the log."""
        how = (
            "its learning rate has decayed and is raised again (re-warmed)"
            if self.rewarmed
            else "on the plateau of its learning rate"
        )
        return (
            f"continues from step {self.steps:,} ({self.tokens:,} tokens) of {self.parent}, "
            f"{self.checkpoint.name}: {how}"
        )


def extended_config(cfg: DictConfig, overrides: Sequence[str] | None) -> DictConfig:
    """The configuration of the run in `extend_from`, with the settings that are given now.

    Args:
        cfg: the composed configuration.
        overrides: the overrides of the command line; None if there is no command line, in which
            case all settings of `cfg` count as given.

    Raises:
        FileNotFoundError: the folder contains no run.
        ValueError: settings are given that differ from those of the run.
    """
    folder = _parent(cfg)
    parent = read_config(folder)
    if not parent:
        raise FileNotFoundError(
            f"extend_from={cfg.extend_from} is not the folder of a run: it has no readable "
            "config.yaml; give the folder of a finished run, outputs/<experiment>/<run>"
        )
    now = plain_config(cfg)
    before: set[str] = set((read_summary(folder) or {}).get("overrides") or ())
    _check_choices(overrides, before, folder)
    refused, result = [], parent
    then_identity, now_identity = identity(parent), identity(now)
    for key, then, value in differing("", parent, now):
        is_given = overrides is None or any(gives(key, override, before) for override in overrides)
        if then is MISSING and not is_given and not _is_of_another_part(key, parent, now):
            result = replaced(result, key.split("."), value)
        elif not is_given or value in (MISSING, "???") or _is_chosen(key, value, parent):
            continue
        elif key in FREE or _is_same(key, then_identity, now_identity):
            result = replaced(result, key.split("."), value)
        else:
            refused.append(f"{key}={_text(value)} (there {_text(then)})")
    if refused:
        more = f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise ValueError(
            f"extend_from={folder} keeps the settings of that run, and these differ: "
            f"{', '.join(refused[:SHOWN])}{more}; leave them out, or start a new run from its "
            f"weights with init_from={folder}/model"
        )
    typed = TOKEN_LIMITS if overrides is None else set(map(override_key, overrides))
    result = without_other_limits(result, now, set(typed).intersection(TOKEN_LIMITS))
    # The configuration of the run contains the learning rate that its probe chose.
    own = {"extend_from": str(cfg.extend_from), "resume": now["resume"], PROBE: False}
    return OmegaConf.create(result | own)


def _is_chosen(key: str, now: object, then: Config) -> bool:
    """Whether the finished run contains the choice of a setting that is not given as a number."""
    return (key in CHOSEN_BY_RULE and now == AUTO) or (key == RATE and bool(then.get(PROBE)))


def _is_of_another_part(key: str, then: Config, now: Config) -> bool:
    """Whether the two configurations build different parts with the node of a key."""
    for name in key.split(".")[:-1]:
        inner_then, inner_now = then.get(name), now.get(name)
        if not isinstance(inner_then, Mapping) or not isinstance(inner_now, Mapping):
            return False
        then, now = inner_then, inner_now
        if then.get("_target_") != now.get("_target_"):
            return True
    return False


def find_extension(cfg: DictConfig, budget: TrainingBudget, schedule: Schedule) -> Extension:
    """The state of the run in `extend_from` from which the new run starts.

    Args:
        cfg: the configuration as `extended_config` returns it.
        budget: the training budget of the new run.
        schedule: the learning-rate schedule as configured.

    Raises:
        ValueError: the run is not finished, compresses its model, or has used up the new budget.
        FileNotFoundError: the run has no checkpoint.
    """
    folder = _parent(cfg)
    summary = read_summary(folder) or {}
    if summary.get("status") != "finished":
        raise ValueError(
            f"extend_from={folder} is not finished (status {summary.get('status')}); continue it "
            "first: run its command with resume=true"
        )
    if cfg.compression:
        raise ValueError(
            f"extend_from={folder} compresses its model at shares of its budget, which would "
            f"change; continue to train its model with init_from={folder}/model compression=none"
        )
    _check_longer(folder, summary, budget)
    checkpoint, is_rewarmed = _choose_checkpoint(folder, schedule)
    progress = read_checkpoint(checkpoint, mmap=True)["progress"]
    return Extension(
        parent=folder,
        checkpoint=checkpoint,
        steps=progress["step"],
        tokens=progress["tokens"],
        seconds=progress["seconds"],
        rewarmed=is_rewarmed,
    )


def check_same_data(extension: Extension, prepared: PreparedData) -> None:
    """Check that the data and the tokenizer are those of the extended run.

    Raises:
        ValueError: they have changed.
    """
    then = (read_summary(extension.parent) or {}).get("hashes") or {}
    changed = [name for name, value in then.items() if prepared.hashes.get(name) != value]
    if changed:
        raise ValueError(
            f"extend_from={extension.parent} was trained on other data than {prepared.dir} holds: "
            f"{', '.join(changed)} differ; restore the files, or start a new run with "
            f"init_from={extension.parent}/model"
        )


def extended_schedule(
    schedule: Schedule, extension: Extension | None, budget: TrainingBudget
) -> Schedule:
    """The schedule of a run; an extended run starts with the last learning rate of its parent."""
    if extension is None:
        return schedule
    if not extension.rewarmed:
        return continue_from_plateau(schedule)
    progress = budget.progress(extension.steps, extension.seconds)
    return rewarmed(schedule, step=extension.steps, progress=progress)


def _parent(cfg: DictConfig) -> Path:
    return user_path(cfg.extend_from)


def _choose_checkpoint(folder: Path, schedule: Schedule) -> tuple[Path, bool]:
    """The checkpoint to continue from, and whether its learning rate has already decayed."""
    last = last_checkpoint(folder)
    falls = is_decaying(schedule, 1.0)
    plateau = folder / CHECKPOINTS / PLATEAU_CHECKPOINT
    if falls and plateau.exists():
        return plateau, False
    if last is None:
        raise FileNotFoundError(
            f"extend_from={folder} has no checkpoint to continue from (callbacks=none saves none); "
            f"start a new run from its weights with init_from={folder}/model"
        )
    return last, falls is not False


def _check_longer(folder: Path, summary: Mapping[str, Any], budget: TrainingBudget) -> None:
    steps, seconds = summary.get("steps", 0), summary.get("wall_seconds") or 0.0
    if not budget.is_spent(steps, seconds):
        return
    limits = ("max_tokens", "max_steps", "max_seconds")
    given = ", ".join(
        f"{name}={value:,.0f}" for name in limits if (value := getattr(budget, name)) is not None
    )
    raise ValueError(
        f"extend_from={folder} was trained for {steps:,} steps, {summary.get('tokens', 0):,} "
        f"tokens and {seconds:,.0f} seconds, so that {given} leaves no steps to train; give a "
        "larger budget, and null for limits that should not apply"
    )


def _check_choices(overrides: Sequence[str] | None, before: set[str], folder: Path) -> None:
    for override in overrides or ():
        if override_key(override) in CHOSEN and override not in before:
            raise ValueError(
                f"extend_from={folder} takes all settings from that run; leave out {override}, or "
                f"start a new run from its weights with init_from={folder}/model"
            )


def _is_same(key: str, then: Config, now: Config) -> bool:
    """Whether the settings below `key` that can change the result are equal."""
    names = [name for name in {**then, **now} if name == key or name.startswith(f"{key}.")]
    return all(then.get(name) == now.get(name) for name in names)


def _text(value: object) -> str:
    if value is MISSING or value is None:
        return "null"
    return "{…}" if isinstance(value, Mapping) else str(value)
