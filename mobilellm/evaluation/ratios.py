"""Measures that are ratios of two sums over documents, with their intervals."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mobilellm.evaluation.intervals import bootstrap_intervals, wilson_interval

Ratio = tuple[tuple[float, ...], tuple[float, ...]]
"""Numerators and denominators, one per document each. A document may have a denominator of 0."""
Ratios = Mapping[str, Ratio]
"""By name of the measure."""


class RatioSums:
    """Collects the values of measures, and the documents that they belong to."""

    def __init__(self, documents: int) -> None:
        """Begin without values.

        Args:
            documents: number of documents.
        """
        self._documents = documents
        self._sums: dict[str, np.ndarray] = {}

    def add(self, measure: str, document: int, above: float, below: float = 1.0) -> None:
        """Add to the numerator and to the denominator of a measure in one document."""
        sums = self._sums.setdefault(measure, np.zeros((2, self._documents)))
        sums[:, document] += above, below

    def ratios(self) -> Ratios:
        """The measures that have values."""
        return {
            name: (tuple(sums[0].tolist()), tuple(sums[1].tolist()))
            for name, sums in self._sums.items()
        }


def ratio_record(ratios: Ratios, shares: Iterable[str] = ()) -> dict[str, Any]:
    """Each measure with its interval of 95 % over documents, as plain data.

    The interval is that of the bootstrap. If a share of right answers is 0 or 1, all samples are
    equal; its interval is then Wilson's, with one trial for each document that counts. Other
    measures to which a single document contributes have no interval.

    Args:
        ratios: the measures, with a denominator above 0 in at least one document.
        shares: names of the measures that are shares.
    """
    record: dict[str, Any] = {}
    intervals = bootstrap_intervals(list(ratios.values())) if ratios else []
    for (name, (above, below)), bootstrap in zip(ratios.items(), intervals, strict=True):
        value = sum(above) / sum(below)
        trials = sum(size > 0 for size in below)
        is_sure = name in shares and value in (0, 1)
        interval = wilson_interval(value * trials, trials) if is_sure else bootstrap
        record[name] = value
        if interval is not None:
            record[f"{name}_interval"] = list(interval)
    return record


def ratios_from(content: Mapping[str, Any]) -> Ratios:
    """Restore ratios from their JSON."""
    return {name: (tuple(above), tuple(below)) for name, (above, below) in content.items()}
