"""Numbers that the recipe rule chose for a run earlier, which the run keeps if the rule changes."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellm.paths import user_path
from mobilellm.pipeline.identity import config_hash, run_folders
from mobilellm.pipeline.recipe_rule import (
    CHOSEN_BY_RULE,
    EXTRAPOLATED,
    RuleChoice,
    value_at,
    with_settings,
)
from mobilellm.run_folder import read_summary
from mobilellm.run_settings import Config

SAME = ("seed", "sequence_length", "max_tokens", "max_steps")
"""Facts of summary.json that are compared first, since it takes longer to hash a configuration."""


def with_earlier_choice(
    config: dict[str, Any], choice: RuleChoice | None, parent: Path
) -> tuple[dict[str, Any], RuleChoice | None]:
    """The numbers that were chosen when the run began or by the run that it extends, if any.

    Args:
        config: the resolved configuration, with the numbers of `choice`.
        choice: what the rule chooses now; None if nothing is `auto`.
        parent: the folder with the folders of the runs.

    Returns:
        The configuration, and what the rule has chosen; None if it has not chosen anything.
    """
    if choice is not None:
        return _of_begun_run(config, choice, parent)
    extended = config["extend_from"]
    return config, None if extended is None else _of_extended_run(config, user_path(extended))


def _of_begun_run(
    config: dict[str, Any], choice: RuleChoice, parent: Path
) -> tuple[dict[str, Any], RuleChoice]:
    """The rule of another version, or another number of devices, can lead to other numbers.

    Without their record, the same command would begin a second run.
    """
    if any(parent.glob(f"*-{config_hash(config)}")):
        return config, choice
    identities: dict[frozenset[tuple[str, float]], str] = {}
    for summary in _summaries(parent):
        then = _recorded(summary)
        if then is None or then.settings.keys() != choice.settings.keys():
            continue
        if any(summary.get(name) != config.get(name) for name in SAME):
            continue
        numbers, earlier = frozenset(then.settings.items()), with_settings(config, then.settings)
        if numbers not in identities:
            identities[numbers] = config_hash(earlier)
        if summary.get("identity") == identities[numbers]:
            return earlier, replace(then, purpose="this run when it began; it keeps them")
    return config, choice


def _of_extended_run(config: Config, folder: Path) -> RuleChoice | None:
    """What the rule chose for the finished run in `folder`, without what a probe replaced."""
    then = _recorded(read_summary(folder) or {})
    if then is None:
        return None
    kept = {key: value for key, value in then.settings.items() if value_at(config, key) == value}
    return replace(then, settings=kept, purpose="the run that is extended") if kept else None


def _summaries(parent: Path) -> Iterator[Mapping[str, Any]]:
    for folder in run_folders(parent):
        try:
            yield read_summary(folder) or {}
        except ValueError:
            continue


def _recorded(summary: Mapping[str, Any]) -> RuleChoice | None:
    settings = summary.get(CHOSEN_BY_RULE)
    if not isinstance(settings, Mapping) or not settings:
        return None
    return RuleChoice(settings=settings, purpose="", outside=tuple(summary.get(EXTRAPOLATED) or ()))
