"""What the runs of a ladder have in common: model family, settings, and the speed of training."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mobilellm.models import ModelConfig
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.rungs import Rung
from mobilellm.search.shape_plan import ShapeFamily
from mobilellm.search.training_rate import TrainingRate, fit_training_rate

SIZES = (
    "num_blocks", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
"""Fields of a model that differ between the shapes of a family."""
REPLACED = (
    "max_tokens", "tokens_per_parameter", "max_flops", "horizons", "seed", "variant", "model",
    "output_dir", "prepared_dir",
)  # fmt: skip
"""Overrides of the ladder that a planned run replaces; `model` stands for all of its fields."""


@dataclass(frozen=True, kw_only=True)
class LadderFamily:
    """Common properties of the runs of a ladder."""

    model: ShapeFamily
    sequence_length: int
    overrides: tuple[str, ...]
    """The overrides of the command line that all runs share, without those of the shape, the tokens
    and the folders."""
    device: str
    """The device of the runs, or `several devices`."""
    rate: TrainingRate | None
    """How fast that device trains; None if the runs did not record it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for comparison.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LadderFamily":
        """Read what `to_dict` wrote."""
        rate = values["rate"]
        return cls(
            model=ShapeFamily(**values["model"]),
            sequence_length=values["sequence_length"],
            overrides=tuple(values["overrides"]),
            device=values["device"],
            rate=None if rate is None else TrainingRate(**rate),
        )


def ladder_family(rungs: Sequence[Rung]) -> tuple[LadderFamily | None, str]:
    """The family of a ladder's runs; None if they differ in more than their shape, with the reason.

    Args:
        rungs: the sizes of the ladder.
    """
    groups = [group for rung in rungs for group in (*rung.groups, *rung.shorter)]
    plain = [_without_sizes(group.model) for group in groups]
    different = sorted({key for other in plain for key in other if other[key] != plain[0].get(key)})
    if different:
        return None, f"the models differ in {', '.join(different)}"
    lengths = {group.first.sequence_length for group in groups}
    if len(lengths) > 1:
        return None, f"the runs differ in sequence_length: {sorted(lengths)}"
    widths = [_inner_width(group.model) for group in groups]
    ratios = [w / group.model.hidden_size for w, group in zip(widths, groups, strict=True)]
    heads = {_group_size(group.model) for group in groups}
    if len(heads) > 1:
        return None, f"the models differ in query heads per key-value head: {sorted(heads)}"
    family = LadderFamily(
        model=ShapeFamily(
            fields=plain[0],
            group_size=heads.pop(),
            feed_forward_ratio=float(np.median(ratios)),
            alignment=int(np.gcd.reduce(widths)),
        ),
        sequence_length=lengths.pop(),
        overrides=_common_overrides(groups),
        device=_device(groups),
        rate=_rate(groups),
    )
    return family, ""


def _without_sizes(model: ModelConfig) -> dict[str, Any]:
    return {key: value for key, value in model.to_dict().items() if key not in SIZES}


def _inner_width(model: ModelConfig) -> int:
    size = model.intermediate_size
    return size if isinstance(size, int) else max(size)


def _group_size(model: ModelConfig) -> int:
    shape = model.block_shapes[0]
    return shape.num_attention_heads // shape.num_key_value_heads


def _common_overrides(groups: Sequence[RunGroup]) -> tuple[str, ...]:
    """The overrides that all runs share, in the order of the first run."""
    lists = [list(run.fact("overrides") or ()) for group in groups for run in group.runs]
    shared = set(lists[0]).intersection(*map(set, lists))
    return tuple(
        override
        for override in lists[0]
        if override in shared and _key(override).partition(".")[0] not in REPLACED
    )


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _device(groups: Sequence[RunGroup]) -> str:
    devices = {str(run.fact("device") or "an unknown device") for g in groups for run in g.runs}
    return devices.pop() if len(devices) == 1 else "several devices"


def _rate(groups: Sequence[RunGroup]) -> TrainingRate | None:
    runs = [
        (run.model.num_layers, run.flops_per_token["training"], 1 / rate)
        for group in groups
        for run in group.runs
        if (rate := run.number("tokens_per_second"))
    ]
    return fit_training_rate(*zip(*runs, strict=True)) if runs else None
