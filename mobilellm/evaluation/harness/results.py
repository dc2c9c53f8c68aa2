"""What a model achieves on one task of the harness."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mobilellm.evaluation.choices import (
    NORMALIZATIONS,
    ChoiceScores,
    accuracy,
    answer_bits,
    chance,
    probability_margin,
)
from mobilellm.evaluation.conversations.names import SHARES
from mobilellm.evaluation.intervals import bootstrap_intervals, wilson_interval
from mobilellm.evaluation.ratios import Ratios, ratio_record, ratios_from

ACCURACY_NAMES = {
    "none": "accuracy",
    "characters": "accuracy_norm",
    "bytes": "accuracy_bytes",
    "unconditional": "accuracy_unconditional",
}
"""Name of the accuracy by normalisation."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Scores of the documents of a task."""

    task: str
    documents: int
    choices: tuple[ChoiceScores, ...] = ()
    """One per document; empty for a task without choices."""
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of the harness's own metrics, one per document, of tasks without choices."""
    nats: tuple[float, ...] = ()
    """Nats of the text that is to be predicted, one per document, of tasks without choices."""
    num_bytes: tuple[int, ...] = ()
    """Bytes of that text."""
    ratios: Ratios = field(default_factory=dict)
    """Measures of conversations, one numerator and denominator per document."""
    variants: Mapping[str, Ratios] = field(default_factory=dict)
    """The same of other answers to the same conversations, such as constrained ones."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers of turns of the conversations by kind."""
    samples: tuple[Mapping[str, Any], ...] = ()
    """What was to be written in conversations, and what was written."""
    harness: Mapping[str, float] = field(default_factory=dict)
    """The harness's own metrics, by its own rules."""
    truncated: int = 0
    """Requests whose context was cut on the left."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the results depend on: number of examples, limit, rows."""

    def per_document(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Numerators and denominators of each measure, (documents,) each.

        A measure is the sum of the numerators divided by that of the denominators.
        """
        if self.choices:
            return _choice_measures(self.choices)
        ones = np.ones(self.documents)
        found = {name: (np.asarray(v, dtype=float), ones) for name, v in self.values.items()}
        if self.nats:
            bits = np.asarray(self.nats) / math.log(2)
            found["bits_per_byte"] = (bits, np.asarray(self.num_bytes, dtype=float))
        for name, (above, below) in self.ratios.items():
            found[name] = (np.asarray(above), np.asarray(below))
        return found

    def record(self) -> dict[str, Any]:
        """The results as plain data, with an interval of 95 % for each measure.

        Measures that are not shares have no interval if there is a single document.
        """
        if self.ratios:
            return self._conversation_record()
        measures = self.per_document()
        record: dict[str, Any] = {"documents": self.documents}
        intervals = bootstrap_intervals(list(measures.values())) if measures else []
        for (name, (above, below)), bootstrap in zip(measures.items(), intervals, strict=True):
            record[name] = float(above.sum() / below.sum())
            correct, count = float(above.sum()), len(above)
            interval = wilson_interval(correct, count) if is_share(name) else bootstrap
            if interval is not None:
                record[f"{name}_interval"] = list(interval)
        if self.choices:
            record["chance"] = chance(self.choices)
            # The harness reports acc_norm only for tasks with answers of different lengths.
            source = "accuracy_norm" if "acc_norm" in self.harness else "accuracy"
            for end in ("", "_interval"):
                record[f"reported_accuracy{end}"] = record[f"{source}{end}"]
        record["harness"] = dict(self.harness)
        record["truncated"] = self.truncated
        return record | {"settings": dict(self.settings)}

    def _conversation_record(self) -> dict[str, Any]:
        """See `record`; the documents are conversations."""
        return {
            "documents": self.documents,
            **self.counts,
            **ratio_record(self.ratios, SHARES),
            "variants": {
                name: ratio_record(ratios, SHARES) for name, ratios in self.variants.items()
            },
            "settings": dict(self.settings),
        }


def to_plain(result: TaskResult) -> dict[str, Any]:
    """The result with its documents as plain data, from which `from_plain` restores it."""
    return asdict(result)


def from_plain(content: Mapping[str, Any]) -> TaskResult:
    """Restore a result from what `to_plain` returned, or from its JSON.

    Raises:
        KeyError, TypeError, ValueError: the content is not that of a result.
    """
    choices = tuple(_choice_from(each) for each in content["choices"])
    values = {name: tuple(each) for name, each in content["values"].items()}
    parts: dict[str, Any] = {name: tuple(content[name]) for name in ("nats", "num_bytes")}
    # Results that were stored before there were tasks on conversations do not have these.
    parts["ratios"] = ratios_from(content.get("ratios", {}))
    parts["variants"] = {
        name: ratios_from(each) for name, each in content.get("variants", {}).items()
    }
    parts["samples"] = tuple(content.get("samples", ()))
    return TaskResult(**{**content, **parts, "choices": choices, "values": values})


def _choice_from(content: Mapping[str, Any]) -> ChoiceScores:
    fields: dict[str, Any] = {
        name: None if values is None else tuple(values) for name, values in content.items()
    }
    return ChoiceScores(**fields)


def is_share(measure: str) -> bool:
    """Whether a measure is a share of right answers, whose interval is binomial."""
    return measure.startswith("accuracy") or measure == "exact_match" or measure.endswith("acc")


def _choice_measures(
    choices: Sequence[ChoiceScores],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    ones = np.ones(len(choices))
    found = {}
    for normalization in NORMALIZATIONS:
        if normalization == "unconditional" and any(c.unconditional is None for c in choices):
            continue
        values = np.array([accuracy(each, normalization) for each in choices])
        found[ACCURACY_NAMES[normalization]] = (values, ones)
    bits, sizes = zip(*map(answer_bits, choices), strict=True)
    found["bits_per_byte"] = (np.array(bits), np.array(sizes, dtype=float))
    found["margin"] = (np.array([probability_margin(each) for each in choices]), ones)
    return found
