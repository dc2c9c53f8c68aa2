"""The comparison itself: shapes, a verdict for each pair, warnings, and the finding in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.report.fairness import Caution, cautions, metric_of
from mobilellm.report.findings import findings
from mobilellm.report.runs import LeftOut, RunSet
from mobilellm.report.shapes import Shape, group_runs
from mobilellm.report.statistics import (
    Interval,
    Pair,
    compare_pairs,
    mean_interval,
    paired_differences,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that the report says; `page` and the other files stand in `folder`."""

    title: str
    sources: tuple[Path, ...]
    """Folders that were given."""
    folder: Path
    shapes: tuple[Shape, ...]
    """From wide to deep."""
    metric: str | None
    """`val_loss`, `val_bits_per_byte`, or None where no loss can be compared."""
    pairs: tuple[Pair, ...]
    """Every pair of shapes once; empty without a metric."""
    cautions: tuple[Caution, ...]
    """What makes the comparison unfair or weak, the gravest first."""
    left_out: tuple[LeftOut, ...]
    num_probes: int
    findings: tuple[str, ...]
    """Sentences, the answer first."""

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        return self.findings[0]

    @property
    def page(self) -> Path:
        """The self-contained report."""
        return self.folder / "index.html"

    def pair(self, first: str, second: str) -> Pair | None:
        """The first shape as compared with the second, by label."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.second, pair.first) == (first, second):
                return pair.turned()
        return None

    def difference(self, pair: Pair, metric: str) -> Interval | None:
        """The paired difference of a pair in either metric; None where it is not known."""
        by_label = {shape.label: shape for shape in self.shapes}
        first, second = (by_label[label].losses(metric) for label in (pair.first, pair.second))
        differences = paired_differences(first, second)
        return mean_interval(list(differences.values())) if differences else None

    def __rich__(self) -> "RenderableType":
        """Table, verdicts and warnings for the terminal."""
        from mobilellm.report.table import terminal_report

        return terminal_report(self)


def analyse(
    runs: RunSet, *, sources: Sequence[Path], folder: Path, title: str | None = None
) -> Comparison:
    """Compare runs that were read; nothing is written."""
    shapes, repeated = group_runs(runs.finished)
    metric = metric_of(shapes)
    pairs = compare_pairs({shape.label: shape.losses(metric) for shape in shapes}) if metric else ()
    return Comparison(
        title=title or _title(shapes),
        sources=tuple(sources),
        folder=folder,
        shapes=shapes,
        metric=metric,
        pairs=pairs,
        cautions=cautions(shapes),
        left_out=(*runs.left_out, *repeated),
        num_probes=runs.num_probes,
        findings=findings(shapes, pairs, metric),
    )


def _title(shapes: Sequence[Shape]) -> str:
    names = {str(run.fact("experiment") or "") for shape in shapes for run in shape.runs}
    named = " and ".join(sorted(name.replace("_", " ") for name in names if name))
    return (named[:1].upper() + named[1:]) or f"Comparison of {len(shapes)} shapes"
