"""Names of tasks, groups and tags of the harness, and the single tasks that they stand for."""

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GROUP = "mobilellm"
"""Name of the group of the eight tasks of the MobileLLM paper."""
WITHOUT = "boolq"
"""The task without which the average of the group is given as well: its noise moves the average."""
MEMBERS = (
    "arc_easy", "arc_challenge", "boolq", "piqa", "social_iqa", "hellaswag", "openbookqa",
    "winogrande",
)  # fmt: skip
"""Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905, table 3."""


@dataclass(frozen=True)
class Selection:
    """The tasks that a user named."""

    tasks: tuple[str, ...]
    """Names of single tasks, each once."""
    groups: Mapping[str, tuple[str, ...]]
    """The tasks of each group or tag that was named."""


def select_tasks(names: Sequence[str], index: Mapping[str, Any]) -> Selection:
    """Find the single tasks that names stand for.

    Args:
        names: tasks, groups and tags of the harness, patterns such as `blimp_*`, or `mobilellm`.
        index: `TaskManager.task_index` of the harness.

    Raises:
        ValueError: a name is unknown, or none is given.
    """
    groups: dict[str, tuple[str, ...]] = {}
    found: list[str] = []
    for name in names:
        members = _members(name, index)
        if members != (name,):
            groups[name] = members
        found += members
    if not found:
        raise ValueError(f"no task was given; give e.g. --tasks {GROUP} or --tasks hellaswag,piqa")
    return Selection(tuple(dict.fromkeys(found)), groups)


def _members(name: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    if name == GROUP:
        return MEMBERS
    if name in index:
        return tuple(dict.fromkeys(_leaves(name, index)))
    if any(mark in name for mark in "*?["):
        matched = sorted(each for each in fnmatch.filter(index, name) if _is_task(index[each]))
        if matched:
            return tuple(matched)
    near = difflib.get_close_matches(name, [GROUP, *index], n=4, cutoff=0.0)
    raise ValueError(
        f"task {name!r} is not known to the lm-evaluation-harness; did you mean one of "
        f"{', '.join(near)}? `lm_eval ls tasks` lists all"
    )


def _is_task(entry: Any) -> bool:
    return entry.kind.name in ("TASK", "PY_TASK")


def _leaves(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks of a group or tag, in order; a task itself."""
    entry = index[name]
    if _is_task(entry):
        yield name
    elif entry.kind.name == "TAG":
        for each in sorted(entry.tags):
            yield from _leaves(each, index)
    else:
        yield from _listed((entry.cfg or {}).get("task"), index, name)


def _listed(members: Any, index: Mapping[str, Any], group: str) -> Iterator[str]:
    for member in members if isinstance(members, list) else [members]:
        name = member.get("task", member.get("group")) if isinstance(member, Mapping) else member
        if isinstance(name, list):
            yield from _listed(name, index, group)
        elif name in index:
            yield from _leaves(name, index)
        else:
            raise ValueError(
                f"the group {group} of the harness defines the task {name!r} inside itself, which "
                "is not supported; name other tasks"
            )
