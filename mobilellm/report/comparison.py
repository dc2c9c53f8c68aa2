"""The comparison itself: shapes, a verdict for each pair, warnings, and the finding in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.report.caution import Caution
from mobilellm.report.comparability import comparable_groups, obstacle
from mobilellm.report.compressed import CompressedModel, compressed_cautions, ranked
from mobilellm.report.fairness import cautions, metric_of
from mobilellm.report.findings import findings, lowest_label
from mobilellm.report.leaderboard import leaderboard_sentence
from mobilellm.report.runs import LeftOut, RunSet
from mobilellm.report.shapes import Shape, group_runs
from mobilellm.report.statistics import (
    Interval,
    Pair,
    compare_pairs,
    mean_interval,
    paired_differences,
)
from mobilellm.units import listed

if TYPE_CHECKING:
    from rich.console import RenderableType


MOST_SHAPES = 8
"""Beyond so many every pair is too much to read: the others are shown against the best."""


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
    """Every pair of shapes once, or every pair with the baseline; empty without a metric."""
    reference: str | None
    """The shape that the others are shown against; None: every pair is shown."""
    is_baseline: bool
    """Whether the reference was chosen beforehand; otherwise it has the lowest loss."""
    compressed: tuple[CompressedModel, ...]
    """The leaderboard of compressed models; empty where none was given."""
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
    runs: RunSet,
    *,
    sources: Sequence[Path],
    folder: Path,
    title: str | None = None,
    baseline: str | None = None,
    models: Sequence[CompressedModel] = (),
) -> Comparison:
    """Compare what was read; nothing is written.

    Raises:
        ValueError: a baseline that is none of the shapes, or more than one.
    """
    shapes, repeated = group_runs(runs.finished)
    metric = metric_of(shapes) if shapes else None
    given = None if baseline is None else find_baseline(shapes, baseline)
    pairs = _pairs(shapes, metric, given)
    reference = given
    if reference is None and metric is not None and len(shapes) > MOST_SHAPES:
        reference = lowest_label(comparable_groups(shapes)[0], metric)
    rows = ranked(models, shapes)
    found = findings(shapes, pairs, metric, given) if shapes else ()
    told = leaderboard_sentence(rows) if models else None
    return Comparison(
        title=title or _title(shapes, sources),
        sources=tuple(sources),
        folder=folder,
        shapes=shapes,
        metric=metric,
        pairs=pairs,
        reference=reference,
        is_baseline=given is not None,
        compressed=rows,
        cautions=(
            *(cautions(shapes) if shapes else ()), *(compressed_cautions(rows) if models else ()),
        ),
        left_out=(*runs.left_out, *repeated),
        num_probes=runs.num_probes,
        findings=(*found, *((told,) if told else ())),
    )  # fmt: skip


def find_baseline(shapes: Sequence[Shape], name: str) -> str:
    """The label of the shape that is called so, or that has a run in a folder of that name.

    Raises:
        ValueError: none, or more than one.
    """
    found = [shape.label for shape in shapes if shape.label == name] or [
        shape.label
        for shape in shapes
        if any(name.rstrip("/") in (run.folder.name, str(run.folder)) for run in shape.runs)
    ]
    if len(found) == 1:
        return found[0]
    if not shapes:
        raise ValueError(
            f"--baseline {name!r} names a shape of runs, and there are none; leave it out"
        )
    labels = ", ".join(repr(shape.label) for shape in shapes)
    raise ValueError(
        f"--baseline {name!r} is none of the shapes; use the name of one ({labels}) or of a run's "
        "folder"
    )


def _pairs(shapes: Sequence[Shape], metric: str | None, baseline: str | None) -> tuple[Pair, ...]:
    if metric is None:
        return ()
    by_label = {shape.label: shape for shape in shapes}
    return compare_pairs(
        {shape.label: shape.losses(metric) for shape in shapes},
        lambda first, second: obstacle(by_label[first], by_label[second]),
        baseline,
    )


def _title(shapes: Sequence[Shape], sources: Sequence[Path]) -> str:
    if not shapes:
        return f"Compressed models in {listed([str(path) for path in sources])}"
    names = {str(run.fact("experiment") or "") for shape in shapes for run in shape.runs}
    named = " and ".join(sorted(name.replace("_", " ") for name in names if name))
    return (named[:1].upper() + named[1:]) or f"Comparison of {len(shapes)} shapes"
