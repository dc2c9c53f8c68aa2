"""Stages of compression: groups of layers, and the optimizer steps at which they start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from mobilellm.compression.selection import by_depth, select_layers
from mobilellm.models import ModelConfig
from mobilellm.models.config import check_choice, check_positive

ORDERS = ("forward", "backward", "least_sensitive", "given")


@dataclass(frozen=True)
class Stages:
    """Groups of layers that are compressed together, and the start of each stage.

    Raises:
        ValueError: the numbers of groups and starts differ, the starts do not increase, a group is
            empty, or a layer is in two groups.
    """

    groups: tuple[tuple[str, ...], ...]
    """Names of layers, one group per stage."""
    starts: tuple[int, ...]
    """Number of optimizer steps that precede each stage; 0: before the first step."""

    def __post_init__(self) -> None:
        """Check the groups and the starts."""
        if len(self.groups) != len(self.starts) or not self.groups:
            raise ValueError(
                f"there are {len(self.groups)} groups of layers and {len(self.starts)} starts; "
                "give one start per group, at least one"
            )
        _check_rising(self.starts)
        _check_groups(self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"groups": [list(group) for group in self.groups], "starts": list(self.starts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Stages":
        """The inverse of `to_dict`."""
        return cls(tuple(map(tuple, values["groups"])), tuple(values["starts"]))


def stage_starts(
    total_steps: int | None,
    num_stages: int,
    *,
    first_start: float = 0.0,
    recovery_share: float | None = None,
) -> tuple[int, ...]:
    """Compute the optimizer steps at which the stages begin, which are evenly spaced.

    Args:
        total_steps: optimizer steps of the whole run; None if unknown, which requires a single
            stage before the first step.
        num_stages: number of stages, at least 1.
        first_start: share of the steps before the first stage.
        recovery_share: share of the steps between two stages. All remaining steps follow the last
            stage. None: the same number of steps after each stage.

    Raises:
        ValueError: a share is out of range, two stages begin at the same step, or a stage begins
            after the last step.
    """
    check_positive("num_stages", num_stages)
    if not 0 <= first_start < 1:
        raise ValueError(
            f"first_start={first_start} is a share of the run's steps and must be below 1 and at "
            "least 0; with 0 the model is compressed before the first step"
        )
    if recovery_share is not None and not 0 < recovery_share < 1:
        raise ValueError(
            f"recovery_share={recovery_share} is a share of the run's steps and must be between 0 "
            "and 1; null gives every stage the same number of steps"
        )
    if total_steps is None:
        if num_stages > 1 or first_start > 0:
            raise ValueError(
                "compression stages begin at shares of the run's steps, and this run is limited "
                "only by time; give max_tokens or max_steps, or use one stage with first_start=0"
            )
        return (0,)
    spacing = (1 - first_start) / num_stages if recovery_share is None else recovery_share
    starts = tuple(round(total_steps * (first_start + spacing * n)) for n in range(num_stages))
    if starts[-1] >= total_steps:
        lower = [f"first_start={first_start}"] if first_start else []
        lower += [f"recovery_share={recovery_share}"] if recovery_share is not None else []
        remedy = f"lower {' or '.join(lower)}, or use" if lower else "use"
        raise ValueError(
            f"the last of num_stages={num_stages} begins at step {starts[-1]}, but the run ends at "
            f"step {total_steps}; {remedy} fewer stages or more tokens"
        )
    _check_rising(starts)
    return starts


def group_layers(
    config: ModelConfig,
    names: Sequence[str],
    *,
    num_stages: int,
    order: str = "forward",
    patterns: Sequence[Sequence[str]] = (),
    errors: Mapping[str, float | None] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """Divide the layers among the stages.

    Args:
        config: configuration of the model.
        names: names of the layers, keys of `config.matrix_sizes`.
        num_stages: number of groups, whose sizes differ by at most one layer.
        order: `forward` (by depth), `backward`, `least_sensitive` (the layers with the smallest
            `errors` first) or `given` (`patterns` names the layers of each stage).
        patterns: for `given`, one list of patterns per stage, as for `select_layers`.
        errors: for `least_sensitive`, the expected relative error of each layer.

    Raises:
        ValueError: a layer is in two groups or in none, a pattern matches nothing, a group is
            empty, the order is unknown, or a layer has no expected error.
    """
    check_choice("order", order, ORDERS)
    if order == "given":
        return _given_groups(config, names, patterns)
    ordered = by_depth(config, names)
    if order == "backward":
        ordered.reverse()
    if order == "least_sensitive":
        known = {name: error for name, error in (errors or {}).items() if error is not None}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"order=least_sensitive requires the expected error of each layer, but the recipe "
                f"does not estimate it for {', '.join(missing[:3])}; use order=forward or backward"
            )
        ordered.sort(key=known.__getitem__)
    if num_stages > len(ordered):
        raise ValueError(
            f"num_stages={num_stages} exceeds the number of layers to compress, {len(ordered)}; "
            "use fewer stages or more layers"
        )
    ends = [len(ordered) * n // num_stages for n in range(num_stages + 1)]
    return tuple(tuple(ordered[a:b]) for a, b in pairwise(ends))


def _given_groups(
    config: ModelConfig, names: Sequence[str], patterns: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], ...]:
    groups = []
    for number, one in enumerate(patterns, start=1):
        group = tuple(name for name in select_layers(config, one) if name in names)
        if not group:
            raise ValueError(
                f"groups: stage {number}, {', '.join(one)}, matches none of the layers to compress "
                f"({', '.join(names[:3])}, …); give a pattern that matches at least one of them"
            )
        groups.append(group)
    _check_groups(groups)
    missing = [name for name in names if name not in set(chain.from_iterable(groups))]
    if missing:
        raise ValueError(
            f"groups does not contain {', '.join(missing[:3])}, which `layers` selects; add them "
            "to a stage, or remove them from `layers`"
        )
    return tuple(groups)


def _check_groups(groups: Sequence[Sequence[str]]) -> None:
    stage_of: dict[str, int] = {}
    for stage, group in enumerate(groups, start=1):
        if not group:
            raise ValueError(f"stage {stage} compresses no layer; add a layer or remove the stage")
        for name in group:
            if name in stage_of:
                raise ValueError(
                    f"{name} is in stage {stage_of[name]} and in stage {stage}; compress each "
                    "layer once"
                )
            stage_of[name] = stage


def _check_rising(starts: Sequence[int]) -> None:
    if starts[0] < 0 or any(a >= b for a, b in pairwise(starts)):
        raise ValueError(
            f"the stages begin at the steps {', '.join(map(str, starts))}, but these must increase "
            "and must not be negative; use fewer stages, or more steps between them"
        )
