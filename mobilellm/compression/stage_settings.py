"""Settings of compression during training that do not belong to a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mobilellm.compression.stages import ORDERS
from mobilellm.models.config import check_choice
from mobilellm.ranges import MAX_INDEX, Range, check_fields


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Order and start of the stages, and amount of calibration text.

    Raises:
        ValueError: the order is unknown, a number is out of range, or the groups contradict other
            settings.
    """

    num_stages: int | None = None
    """Number of stages; None: one, or one per group."""
    order: str | None = None
    """`forward` (by depth), `backward`, `least_sensitive` (smallest expected error first) or
    `given`; None: `forward`, or `given` if there are groups."""
    groups: Sequence[Sequence[str]] | None = None
    """For the order `given`: patterns of the layers of each stage."""
    first_start: float = 0.0
    """Share of the run's steps before the first stage; 0: the model is compressed before the first
    step."""
    recovery_share: float | None = None
    """Share of the run's steps between two stages; all remaining steps follow the last stage.
    None: the same number of steps after each stage."""
    calibration_tokens: int = 65_536
    """Number of tokens of training text that the recipe uses for calibration."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_fields(
            self,
            num_stages=Range(at_least=1, cap=10_000),
            first_start=Range(at_least=0, below=1),
            recovery_share=Range(
                above=0, below=1, remedy="null gives every stage the same number of steps"
            ),
            calibration_tokens=Range(at_least=1, cap=MAX_INDEX),
        )
        check_choice("order", self.resolved_order, ORDERS)
        if self.resolved_order == "given" and not self.groups:
            raise ValueError("order=given requires groups: give one list of patterns per stage")
        if self.groups is not None and self.resolved_order != "given":
            raise ValueError(
                f"groups determine the order, but order={self.order} is given as well; remove order"
            )
        if self.groups is not None and self.num_stages not in (None, len(self.groups)):
            raise ValueError(
                f"num_stages={self.num_stages}, but there are {len(self.groups)} groups; remove "
                "num_stages"
            )

    @property
    def resolved_num_stages(self) -> int:
        """The number of stages, or its default."""
        return self.num_stages or (len(self.groups) if self.groups else 1)

    @property
    def resolved_order(self) -> str:
        """The order of the layers, or its default."""
        return self.order or ("forward" if self.groups is None else "given")


def split_settings(node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a configuration node into settings of the recipe (with `_target_`) and of the stages.

    Args:
        node: the group `compression` of a configuration, e.g. conf/compression/low_rank.yaml.
    """
    names = {field.name for field in fields(StageSettings)}
    recipe = {key: value for key, value in node.items() if key not in names}
    return recipe, {key: value for key, value in node.items() if key in names}
