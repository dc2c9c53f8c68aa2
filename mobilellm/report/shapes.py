"""Runs that differ in nothing but the seed are one shape, with a short name of its own."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mobilellm.models.config import ModelConfig
from mobilellm.report.runs import LeftOut, Run
from mobilellm.report.statistics import Interval, mean_interval
from mobilellm.report.units import count_text, rate_text
from mobilellm.run_folder import NOT_IDENTITY, flat_config

NOT_SHAPE = (
    *NOT_IDENTITY,
    "seed", "model", "data", "callbacks", "micro_batch_size", "validation_interval_tokens",
    "optimizer.learning_rate",
    "learning_rate_probe", "learning_rate_probe_factors", "learning_rate_probe_share",
    "learning_rate_probe_seed", "trainer", "experiment", "variant",
)  # fmt: skip
"""Settings that either do not change what is learnt, or stand in summary.json as they came out."""


@dataclass(frozen=True)
class Shape:
    """Runs of one configuration, one a seed, in order of the seed."""

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run of the lowest seed; what no seed changes is read from it."""
        return self.runs[0]

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        return self.first.model

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in order."""
        return tuple(run.seed for run in self.runs)

    @property
    def is_shared(self) -> bool:
        """Whether blocks run more than once."""
        return self.model.is_shared

    def losses(self, metric: str) -> dict[int, float]:
        """Seed to final loss; `metric` is `val_loss` or `val_bits_per_byte`."""
        values = {run.seed: getattr(run, metric) for run in self.runs}
        return {seed: value for seed, value in values.items() if value is not None}

    def interval(self, metric: str) -> Interval | None:
        """Mean and interval over seeds; None where no run has the metric."""
        values = list(self.losses(metric).values())
        return mean_interval(values) if values else None

    def median(self, path: str) -> float | None:
        """Median over the runs of a number of summary.json, by dotted path."""
        values = [value for run in self.runs if (value := run.number(path)) is not None]
        return statistics.median(values) if values else None


def group_runs(runs: Iterable[Run]) -> tuple[tuple[Shape, ...], tuple[LeftOut, ...]]:
    """Shapes from wide to deep, and the runs that repeat another's seed.

    Of several runs with equal configuration and seed the one finished last is kept.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[shape_key(run)].append(run)
    shapes, repeated = [], []
    for members in groups.values():
        by_seed: dict[int, Run] = {}
        for run in sorted(members, key=lambda run: str(run.fact("finished_at") or "")):
            if run.seed in by_seed:
                repeated.append((by_seed[run.seed], run))
            by_seed[run.seed] = run
        shapes.append(Shape("", tuple(by_seed[seed] for seed in sorted(by_seed))))
    left_out = tuple(
        LeftOut(older.folder, "duplicate", f"same configuration and seed as {kept.folder}")
        for older, kept in repeated
    )
    return labelled(sorted(shapes, key=_from_wide_to_deep)), left_out


def shape_key(run: Run) -> str:
    """Canonical text of all that makes runs one shape: everything but the seed and the place."""
    settings = {name: value for name, value in flat_config(run.config).items() if _is_part(name)}
    facts = {
        name: run.fact(name) for name in ("max_tokens", "learning_rate", "precision", "hashes")
    }
    if facts["max_tokens"] is None and not settings:
        facts["max_tokens"] = run.tokens
    facts |= {"sequence_length": run.sequence_length, "tokens_per_step": run.tokens_per_step}
    facts["optimizer"] = run.optimizer
    facts["document_mask"] = flat_config(run.config).get("data.document_mask")
    parts = {"model": run.model.to_dict(), "settings": settings, "facts": facts}
    return json.dumps(parts, sort_keys=True, default=str)


def labelled(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """Shapes with labels as short as tells them apart: `24×64`, `12×80 shared ×2`, `8×128 relu`."""
    labels = [_base_label(shape.model) for shape in shapes]
    for describe in (*map(_each, _TRAITS), _differing_settings):
        groups: dict[str, list[int]] = defaultdict(list)
        for index, label in enumerate(labels):
            groups[label].append(index)
        for indices in groups.values():
            traits = describe([shapes[index] for index in indices])
            if len(set(traits)) > 1:
                for index, trait in zip(indices, traits, strict=True):
                    labels[index] = f"{labels[index]} {trait}".strip()
    return tuple(
        replace(shape, label=label) for shape, label in zip(shapes, _numbered(labels), strict=True)
    )


def _numbered(labels: Sequence[str]) -> list[str]:
    """Labels that are still equal, told apart by a number."""
    seen: dict[str, int] = defaultdict(int)
    numbered = []
    for label in labels:
        seen[label] += 1
        numbered.append(f"{label} #{seen[label]}" if labels.count(label) > 1 else label)
    return numbered


def _base_label(model: ModelConfig) -> str:
    shared = f" shared ×{model.block_repeats}" if model.is_shared else ""
    if len(set(model.block_uses)) > 1:
        shared = f" run as {model.num_layers}"
    return f"{model.num_blocks}×{model.hidden_size}{shared}"


def _model_trait(text: Callable[[ModelConfig], str]) -> Callable[[Shape], str]:
    return lambda shape: text(shape.model)


def _each(trait: Callable[[Shape], str]) -> Callable[[Sequence[Shape]], list[str]]:
    return lambda shapes: [trait(shape) for shape in shapes]


def _differing_settings(shapes: Sequence[Shape]) -> list[str]:
    """`init_from=…` for settings of config.yaml in which shapes of one name differ."""
    flat = [flat_config(shape.first.config) for shape in shapes]
    names = sorted({name for config in flat for name in config if _is_part(name)})
    differing = [name for name in names if len({str(config.get(name)) for config in flat}) > 1]
    return [
        " ".join(f"{name.rsplit('.', 1)[-1]}={config.get(name)}" for name in differing)
        for config in flat
    ]


def _sizes(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else f"{min(value)}–{max(value)}"


# In the order in which they are tried; an empty text is the usual case and is not said.
_TRAITS: tuple[Callable[[Shape], str], ...] = (
    _model_trait(lambda m: m.layer_sharing if m.is_shared else ""),
    _model_trait(lambda m: "first kv" if m.share_kv == "first" and m.is_shared else ""),
    _model_trait(lambda m: "" if m.feed_forward == "swiglu" else m.feed_forward),
    _model_trait(lambda m: "" if m.tie_word_embeddings else "untied"),
    _model_trait(lambda m: "" if m.qk_norm == "none" else f"qk {m.qk_norm}"),
    _model_trait(lambda m: f"{_sizes(m.num_attention_heads)}h{_sizes(m.num_key_value_heads)}kv"),
    _model_trait(lambda m: f"head {m.head_dim}"),
    _model_trait(lambda m: f"ffn {_sizes(m.intermediate_size)}"),
    _model_trait(lambda m: f"vocab {m.vocab_size}"),
    lambda shape: f"{count_text(shape.first.number('max_tokens') or shape.first.tokens)} tokens",
    lambda shape: f"lr {rate_text(shape.first.number('learning_rate'))}",
    lambda shape: (shape.first.optimizer or "").partition(" ")[0],
    lambda shape: f"seq {shape.first.sequence_length}",
    lambda shape: f"batch {count_text(shape.first.tokens_per_step)}",
    lambda shape: str(shape.first.fact("precision") or ""),
    lambda shape: str(shape.first.fact("data.name") or ""),
)


def _from_wide_to_deep(shape: Shape) -> tuple[Any, ...]:
    model = shape.model
    return (model.num_layers, model.block_repeats, -model.hidden_size, shape.first.folder.name)


def _is_part(setting: str) -> bool:
    return not any(setting == name or setting.startswith(f"{name}.") for name in NOT_SHAPE)
