"""The lines that a run logs when it starts: its settings, and the run that it continues."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mobilellm.checkpoint_files import last_checkpoint
from mobilellm.pipeline.identity import differences, run_folders
from mobilellm.pipeline.recipe_rule import CHOSEN_BY_RULE
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.token_budget import describe_limit
from mobilellm.run_folder import read_summary
from mobilellm.run_settings import DERIVED_LIMITS, EPOCHS

BUDGET = ("max_tokens", "max_steps", "max_seconds")
# Largest number of differences that are listed.
SHOWN = 3
# Largest number of characters per line.
WIDTH = 80


def start_messages(run: Run) -> Iterator[str]:
    """The lines to log before a run is trained."""
    yield from settings_lines(run.overrides)
    if any(run.config.get(name) is not None for name in DERIVED_LIMITS):
        limit = describe_limit(run.config, run.model)
        yield f"max_tokens={run.budget.max_tokens:,.0f} follows from {limit}"
    if run.config.get(EPOCHS) is not None:
        yield f"max_tokens={run.budget.max_tokens:,.0f}, at most epochs={run.config[EPOCHS]:g}"
    yield from _part_lines(run)
    if last_checkpoint(run.folder) is not None:
        for line in run.changes:
            yield f"{run.folder}: {line}"
        return
    if run.extension is not None:
        yield f"{run.folder} {run.extension.describe()}"
        return
    if run.is_sweep:
        return
    if run.config["resume"]:
        yield (
            f"resume=true: {run.folder} has no checkpoint, the run starts from the beginning"
            f"{_nearest(run)}"
        )
        return
    shorter = _shorter(run)
    if shorter is not None:
        folder, tokens = shorter
        yield (
            f"{folder} is the same run, finished at {tokens:,} tokens; this one starts from the "
            f"beginning. To continue that run instead: extend_from={folder} with the larger budget"
        )


def _part_lines(run: Run) -> Iterator[str]:
    """Lines about what a rule chose, the parametrization and the adapter, if there are any."""
    lines = []
    if run.rule_choice is not None:
        lines.append(str(run.rule_choice))
    if run.parts.parametrization is not None:
        lines.append(f"parametrization: {run.parts.parametrization.describe(run.model)}")
    if run.parts.adapter is not None:
        lines.append(f"adapter: {run.parts.adapter.adapter.describe(run.model)}")
    for line in lines:
        yield from textwrap.wrap(line, WIDTH, subsequent_indent="  ")


def settings_lines(overrides: Sequence[str]) -> list[str]:
    """The overrides of a run in lines of at most 80 characters; empty without overrides.

    Args:
        overrides: the overrides as they were typed, including those of a swept experiment.
    """
    return textwrap.wrap(
        f"settings: {' '.join(overrides)}" if overrides else "",
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _nearest(run: Run) -> str:
    """Text about the unfinished run of the same experiment with the fewest differences."""
    unfinished = [
        (differences(folder, run.config, run.overrides), folder)
        for folder in run_folders(run.folder.parent)
        if last_checkpoint(folder) is not None and _summary(folder).get("status") != "finished"
    ]
    if not unfinished:
        return ""
    found, folder = min(unfinished, key=lambda one: len(one[0]))
    return f"; the unfinished run {folder.name} differs in {_describe(found)}"


def _describe(found: dict[str, tuple[object, object]]) -> str:
    parts = [f"{key}={_value(now)} (there {_value(then)})" for key, (then, now) in found.items()]
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return ", ".join(parts[:SHOWN]) + more


def _value(value: object) -> str:
    return "null" if value is None else str(value)


def _shorter(run: Run) -> tuple[Path, int] | None:
    """The longest finished run that differs only by a smaller budget, and its tokens."""
    steps = run.budget.total_steps
    total = None if steps is None else steps * run.budget.tokens_per_step
    facts = {
        "status": "finished",
        "seed": run.config["seed"],
        "model": run.model.to_dict(),
        "sequence_length": run.config["sequence_length"],
    }
    chosen = set(run.rule_choice.settings) if run.rule_choice is not None else set()
    found = []
    for folder in run_folders(run.folder.parent):
        summary = _summary(folder)
        if any(_plain(summary.get(name)) != _plain(value) for name, value in facts.items()):
            continue
        # What the rule chose depends on the budget.
        may_differ = {*BUDGET, *(chosen & set(summary.get(CHOSEN_BY_RULE) or ()))}
        is_shorter = total is None or summary.get("tokens", total) < total
        if is_shorter and set(differences(folder, run.config, run.overrides)) <= may_differ:
            found.append((folder, summary["tokens"]))
    return max(found, key=lambda one: one[1], default=None)


def _plain(value: object) -> object:
    """The value as it would be read back from JSON."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _summary(folder: Path) -> dict[str, Any]:
    try:
        return read_summary(folder) or {}
    except ValueError:
        return {}
