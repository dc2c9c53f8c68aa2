"""Groups runs that differ only in the seed: one group per configuration."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from mobilellm.models.config import ModelConfig
from mobilellm.report.labels import make_labels
from mobilellm.report.run_settings import (
    canonical_text,
    compression_text,
    configured_model,
    distillation_text,
    settings,
)
from mobilellm.report.runs import LeftOut, Run
from mobilellm.report.statistics import Interval, mean_interval


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration, one per seed, in order of the seed."""

    label: str
    runs: tuple[Run, ...]
    latency: tuple[float, ...] = ()
    """Milliseconds per generated token in each round of a measurement; empty: not measured."""

    @property
    def first(self) -> Run:
        """The run with the lowest seed; it provides facts that do not depend on the seed."""
        return self.runs[0]

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        return self.first.model

    @property
    def latency_ms(self) -> float | None:
        """Median milliseconds per generated token; None: not measured."""
        return statistics.median(self.latency) if self.latency else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in ascending order."""
        return tuple(run.seed for run in self.runs)

    @property
    def is_shared(self) -> bool:
        """Whether blocks are applied more than once."""
        return self.model.is_shared

    def losses(self, metric: str) -> dict[int, float]:
        """Return the final loss by seed.

        Args:
            metric: `val_loss` (nats per token) or `val_bits_per_byte`.
        """
        values = {run.seed: getattr(run, metric) for run in self.runs}
        return {seed: value for seed, value in values.items() if value is not None}

    def interval(self, metric: str) -> Interval | None:
        """Return mean and interval of a loss over seeds; None if no run has the metric."""
        values = list(self.losses(metric).values())
        return mean_interval(values) if values else None

    def median(self, path: str) -> float | None:
        """Return the median of a number in summary.json, given by dotted path; None if unknown."""
        values = [value for run in self.runs if (value := run.number(path)) is not None]
        return statistics.median(values) if values else None


def group_runs(runs: Iterable[Run]) -> tuple[tuple[RunGroup, ...], tuple[LeftOut, ...]]:
    """Group runs by configuration.

    Of several runs with the same configuration and seed, the one that finished last is kept.

    Returns:
        The groups from wide to deep, and the runs that duplicate another one.
    """
    by_key: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_key[group_key(run)].append(run)
    groups, repeated = [], []
    for members in by_key.values():
        by_seed: dict[int, Run] = {}
        for run in sorted(members, key=lambda run: str(run.fact("finished_at") or "")):
            if run.seed in by_seed:
                repeated.append((by_seed[run.seed], run))
            by_seed[run.seed] = run
        groups.append(RunGroup("", tuple(by_seed[seed] for seed in sorted(by_seed))))
    left_out = tuple(
        LeftOut(older.folder, "duplicate", f"same configuration and seed as {kept.folder}")
        for older, kept in repeated
    )
    ordered = sorted(groups, key=from_wide_to_deep)
    labels = make_labels([group.first for group in ordered])
    named = [replace(s, label=label) for s, label in zip(ordered, labels, strict=True)]
    return tuple(named), left_out


def group_key(run: Run, without: Collection[str] = ()) -> str:
    """Return a text that is equal for runs of one configuration.

    It contains everything that affects the result, except the seed.

    Args:
        run: the run.
        without: further facts that it does not contain, such as `learning_rate`.
    """
    given = {name: canonical_text(value) for name, value in settings(run).items()}
    facts = {
        name: run.fact(name) for name in ("max_tokens", "learning_rate", "precision", "hashes")
    }
    if facts["max_tokens"] is None and not run.config:
        facts["max_tokens"] = run.tokens
    facts |= {"sequence_length": run.sequence_length, "tokens_per_step": run.tokens_per_step}
    facts["optimizer"] = run.optimizer
    facts = {name: fact for name, fact in facts.items() if name not in without}
    parts = {"model": configured_model(run), "settings": given, "facts": facts}
    return json.dumps(parts, sort_keys=True, default=str)


def from_wide_to_deep(group: RunGroup) -> tuple[Any, ...]:
    """Sort key: depth, width, dense before compressed, then the values of the settings."""
    run, model = group.first, group.model
    treatment = (compression_text(run), distillation_text(run))
    rate = run.number("learning_rate") or 0.0
    numbers = [
        (name, float(value), "") if isinstance(value, int | float) else (name, math.inf, str(value))
        for name, value in sorted(settings(run).items())
    ]
    place = (model.num_layers, model.block_repeats, -model.hidden_size)
    kept = -run.parameters["stored"] if treatment[0] else 0
    return (*place, treatment[0] != "", kept, treatment, rate, run.tokens, numbers, run.folder.name)
