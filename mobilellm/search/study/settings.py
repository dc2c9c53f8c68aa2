"""The settings of a study: the node `search` of conf/search.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilellm.models.checks import check_choice
from mobilellm.ranges import MAX_SEED, Range, check_fields
from mobilellm.search.space.constraints import Constraints
from mobilellm.search.study.objectives import LOSSES, Objective, parse_objectives
from mobilellm.search.study.pruning import PruningRule

SAMPLERS = ("tpe", "nsgaii", "gp", "random", "grid")
COUNT = Range(at_least=1, cap=1_000_000)


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Checked settings; conf/search.yaml describes each field.

    Raises:
        ValueError, TypeError: a setting is unknown, out of range, or contradicts another.
        FileNotFoundError: there is no such device profile.
    """

    n_trials: int = 20
    sampler: str = "tpe"
    seed: int = 0
    objectives: Sequence[str] = ("val_loss",)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    pruning: Mapping[str, Any] = field(default_factory=dict)
    storage: str | None = None
    attempts: int = 3
    finalists: int = 0
    final_seeds: Sequence[int] = (0, 1, 2)
    final_tokens: float | None = None
    compare_with: Sequence[str] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Check the settings, and build what they describe."""
        check_fields(
            self, "search.", n_trials=COUNT, attempts=Range(at_least=1, cap=1000),
            seed=Range(at_least=0, cap=MAX_SEED), finalists=Range(at_least=0, cap=1000),
            final_seeds=Range(at_least=0, cap=MAX_SEED), final_tokens=Range(above=0, cap=1e18),
        )  # fmt: skip
        check_choice("search.sampler", self.sampler, SAMPLERS)
        _ = self.parsed_objectives, self.limits, self.pruning_rule
        if len(set(self.final_seeds)) < len(self.final_seeds):
            raise ValueError(
                f"search.final_seeds={list(self.final_seeds)} has a seed twice; remove one of them"
            )
        if self.storage is not None and "://" not in self.storage:
            raise ValueError(
                f"search.storage={self.storage} is not the URL of a database, such as "
                "sqlite:///study.db; null keeps a journal file in the study's folder"
            )
        if self.finalists and not self.final_seeds:
            raise ValueError("search.final_seeds is empty; give at least one, e.g. [0,1,2]")
        if self.pruning_rule is not None and self.loss is None:
            raise ValueError(
                f"search.pruning.rule={self.pruning_rule.rule} needs a loss that is measured while "
                f"a trial trains; add one of {', '.join(LOSSES)} to search.objectives, or use "
                "search.pruning.rule=none"
            )

    @property
    def parsed_objectives(self) -> tuple[Objective, ...]:
        """The objectives, each with its direction."""
        return parse_objectives(self.objectives)

    @property
    def loss(self) -> str | None:
        """The objective that is measured while a trial trains; None if there is none."""
        return next((one.name for one in self.parsed_objectives if one.name in LOSSES), None)

    @property
    def limits(self) -> Constraints:
        """The constraints."""
        return _built(Constraints, "search.constraints", self.constraints)

    @property
    def pruning_rule(self) -> PruningRule | None:
        """The rule that ends trials early; None: all trials use their whole budget."""
        rule = _built(PruningRule, "search.pruning", self.pruning)
        return None if rule.rule == "none" else rule


def parse_settings(node: Mapping[str, Any]) -> StudySettings:
    """Read the node `search`.

    Raises:
        ValueError, TypeError, FileNotFoundError: see `StudySettings`.
    """
    return _built(StudySettings, "search", node)


def _built(kind: Any, key: str, node: Mapping[str, Any]) -> Any:
    """An instance of a dataclass, with errors that begin with the key of its node."""
    known = kind.__dataclass_fields__
    for name in node:
        if name not in known:
            check_choice(f"{key} setting", name, known)
    try:
        return kind(**node)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}.latency_profile: {error}") from error
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("search.") else f"{key}.{text}") from error
