"""The analysis of a set of runs: configurations, verdicts, cautions and findings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilellm.report.budgets import HeldEqual, held_equal
from mobilellm.report.caution import Caution
from mobilellm.report.comparability import (
    choose_metric,
    comparable_subsets,
    incomparability_reason,
)  # fmt: skip
from mobilellm.report.compressed import CompressedModel, compressed_cautions, rank_models
from mobilellm.report.decisions import Decisions, early_decisions
from mobilellm.report.equal_latency import EqualLatency, equal_latency
from mobilellm.report.fairness import cautions
from mobilellm.report.findings import UNIT, findings, lowest_label
from mobilellm.report.ladder import Ladder, analyse_ladder
from mobilellm.report.latency import Latencies
from mobilellm.report.latency_findings import latency_sentences, place_of_latency
from mobilellm.report.leaderboard import leaderboard_sentence
from mobilellm.report.power import PowerEstimate, look_sentence, power_estimates
from mobilellm.report.rate_curves import RateCurve, rate_curves, with_rate_sentences
from mobilellm.report.run_groups import RunGroup, from_wide_to_deep, group_runs
from mobilellm.report.rungs import Rung, find_rungs, size_reason
from mobilellm.report.runs import LeftOut, RunSet
from mobilellm.report.statistics import (
    NOT_DISTINGUISHABLE,
    TOO_FEW_SEEDS,
    Interval,
    Judgement,
    Pair,
    check_margin,
    judge,
    level_until,
)
from mobilellm.units import join_names

BITS = "val_bits_per_byte"
MAX_PAIRWISE_GROUPS = 8
"""If there are more configurations, each is compared with the best one instead of every other."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The results of a comparison."""

    title: str
    sources: tuple[Path, ...]
    """The folders that were read."""
    folder: Path
    """The folder of the report."""
    groups: tuple[RunGroup, ...]
    """The configurations, each with its runs, from wide to deep; of a ladder, those with the
    largest number of tokens of each size."""
    metric: str | None
    """`val_loss`, `val_bits_per_byte`, or None if no loss can be compared."""
    pairs: tuple[Pair, ...]
    """Every pair of configurations, or every pair with the baseline; empty if `metric` is None."""
    reference: str | None
    """Label of the configuration with which the others are compared; None: every pair is shown."""
    is_baseline: bool
    """Whether the reference was given as baseline; otherwise it has the lowest loss."""
    pairs_in_bits: tuple[Pair, ...]
    """The same pairs in bits per byte, whatever the metric; empty if it is unknown."""
    power: tuple[PowerEstimate, ...]
    """The noise of each set of comparable configurations, and the seeds that a difference takes."""
    margin: float | None
    """The difference that does not matter, in the unit of the metric; None: none was given."""
    max_seeds: int | None
    """The limit of seeds, if seeds are added until a verdict; None: this is the only look."""
    compressed: tuple[CompressedModel, ...]
    """The leaderboard of compressed models; empty if there are none."""
    held_equal: tuple[HeldEqual, ...]
    """What the configurations of each budget have in common, and what not."""
    latencies: Latencies
    """How decode latency was measured, or why not."""
    equal_latency: EqualLatency
    """The verdicts at equal latency."""
    cautions: tuple[Caution, ...]
    """What makes the comparison unfair or weak, serious cautions first."""
    left_out: tuple[LeftOut, ...]
    num_probes: int
    """Number of learning-rate probes that were skipped."""
    rate_curves: tuple[RateCurve, ...]
    """Loss against learning rate of each shape that was trained with at least three rates."""
    ladder: Ladder | None
    """The law of the loss and the best depth of each size; None if the runs are no ladder."""
    decisions: Decisions | None
    """How often early losses order configurations like the final ones; None with too few runs."""
    findings: tuple[str, ...]
    """Findings in sentences, the main result first."""

    @property
    def verdict(self) -> str:
        """The main result in one sentence."""
        return self.findings[0]

    @property
    def power_sentences(self) -> tuple[str, ...]:
        """Sentences about the noise, the seeds that a difference takes, and the next look."""
        unit = UNIT[self.metric or "val_loss"]
        sentences = tuple(each.sentence(unit) for each in self.power)
        if self.max_seeds is None or not self.pairs:
            return sentences
        return (*sentences, look_sentence(self.power, len(self.undecided), self.max_seeds))

    @property
    def undecided(self) -> tuple[Pair, ...]:
        """The pairs that more seeds could decide."""
        return tuple(
            pair for pair in self.pairs if pair.verdict in (NOT_DISTINGUISHABLE, TOO_FEW_SEEDS)
        )

    @property
    def blocks(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Names and labels of the sets of configurations within which pairs are shown."""
        if self.ladder is None:
            return (("", tuple(group.label for group in self.groups)),)
        return tuple((rung.name, rung.labels) for rung in self.ladder.rungs)

    @property
    def page(self) -> Path:
        """Path of the self-contained page."""
        return self.folder / "index.html"

    def pair(self, first: str, second: str) -> Pair | None:
        """Return the comparison of two configurations, given by label; None if there is none."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.second, pair.first) == (first, second):
                return pair.swapped()
        return None

    def difference(self, pair: Pair, metric: str) -> Interval | None:
        """Return the difference of a pair in the given metric; None if it is unknown."""
        if metric == self.metric:
            return pair.difference
        for other in self.pairs_in_bits if metric == BITS else ():
            if (other.first, other.second) == (pair.first, pair.second):
                return other.difference
            if (other.second, other.first) == (pair.first, pair.second):
                return other.swapped().difference
        return None


def analyse(
    runs: RunSet,
    *,
    sources: Sequence[Path],
    folder: Path,
    title: str | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    max_seeds: int | None = None,
    models: Sequence[CompressedModel] = (),
) -> Analysis:
    """Compare runs that were already read, without writing files.

    Args:
        runs: from `read_runs`.
        sources: the folders that were read.
        folder: of the report, recorded in the result.
        title: heading of the report; default: the name of the experiment.
        baseline: see `compare`.
        margin: see `compare`.
        max_seeds: see `compare`.
        models: compressed models, from `read_compressed`.

    Raises:
        ValueError: the baseline names no configuration, or several; the margin is not a number
            above 0; there are more seeds than `max_seeds`.
    """
    check_margin(margin)
    groups, repeated = group_runs(runs.finished)
    metric = choose_metric(groups) if groups else None
    ladder = analyse_ladder(find_rungs(groups), metric)
    rungs = () if ladder is None else ladder.rungs
    if rungs:
        groups = tuple(sorted((g for rung in rungs for g in rung.groups), key=from_wide_to_deep))
    given = None if baseline is None else find_baseline(groups, baseline)
    judged = _judged(groups, metric, given, margin, max_seeds, rungs)
    pairs = judged.pairs
    reference = given
    is_large = len(groups) > MAX_PAIRWISE_GROUPS and not rungs
    if reference is None and metric is not None and is_large:
        reference = lowest_label(comparable_subsets(groups)[0], metric)
    body = {group.label: group.first.parameters["body"] for group in groups}
    noise = sorted(judged.noise, key=lambda noise: body[noise.labels[0]])
    rows = rank_models(models, groups)
    found = findings(groups, pairs, metric, given, rungs) if groups else ()
    ranking = leaderboard_sentence(rows) if models else None
    curves = rate_curves(groups, metric)
    early = early_decisions([(r.name, r.groups) for r in rungs] or [("", groups)], metric)
    return Analysis(
        title=title or _title(groups, sources),
        sources=tuple(sources),
        folder=folder,
        groups=groups,
        metric=metric,
        pairs=pairs,
        pairs_in_bits=_judged(
            groups, BITS if metric else None, given, None, max_seeds, rungs
        ).pairs,
        power=power_estimates(noise, margin, max_seeds),
        margin=margin,
        max_seeds=max_seeds,
        reference=reference,
        is_baseline=given is not None,
        compressed=rows,
        held_equal=held_equal(groups),
        latencies=Latencies(rounds={}),
        equal_latency=EqualLatency(),
        cautions=(
            *(cautions(groups, rungs) if groups else ()),
            *(compressed_cautions(rows) if models else ()),
        ),
        left_out=(*runs.left_out, *repeated),
        num_probes=runs.num_probes,
        rate_curves=curves,
        ladder=ladder,
        decisions=early,
        findings=(
            *with_rate_sentences((*found, *(ladder.sentences() if ladder else ())), groups, curves),
            *((early.sentence(),) if early else ()),
            *((ranking,) if ranking else ()),
        ),
    )  # fmt: skip


def with_latencies(analysis: Analysis, latencies: Latencies) -> Analysis:
    """Return the analysis with latencies and the verdicts at equal latency."""
    groups = latencies.attached(analysis.groups)
    found = equal_latency(groups, analysis.pairs, analysis.metric)
    sentences = latency_sentences(groups, found, latencies, analysis.metric)
    first = place_of_latency(analysis.findings)
    return replace(
        analysis,
        groups=groups,
        held_equal=held_equal(groups),
        latencies=latencies,
        equal_latency=found,
        findings=(*analysis.findings[:first], *sentences, *analysis.findings[first:]),
    )


def find_baseline(groups: Sequence[RunGroup], name: str) -> str:
    """Return the label of the configuration that a user's `--baseline` names.

    Args:
        groups: all configurations.
        name: label of a configuration, or name or path of the folder of one of its runs.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [group.label for group in groups if group.label == name] or [
        group.label
        for group in groups
        if any(name.rstrip("/") in (run.folder.name, str(run.folder)) for run in group.runs)
    ]
    if len(found) == 1:
        return found[0]
    if not groups:
        raise ValueError(f"--baseline {name!r} requires runs, but there are none; leave it out")
    labels = ", ".join(repr(group.label) for group in groups)
    raise ValueError(
        f"--baseline {name!r} is not one of the configurations; use one of {labels}, or the name "
        "of a run's folder"
    )


def _judged(
    groups: Sequence[RunGroup], metric: str | None, baseline: str | None, margin: float | None,
    max_seeds: int | None, rungs: Sequence[Rung],
) -> Judgement:  # fmt: skip
    if metric is None:
        return Judgement((), ())
    by_label = {group.label: group for group in groups}
    return judge(
        {group.label: group.losses(metric) for group in groups},
        lambda first, second: (
            incomparability_reason(by_label[first], by_label[second])
            or size_reason(rungs, first, second)
        ),
        against=baseline,
        margin=margin,
        level_at=level_until(max_seeds),
    )


def _title(groups: Sequence[RunGroup], sources: Sequence[Path]) -> str:
    if not groups:
        return f"Compressed models in {join_names([str(path) for path in sources])}"
    names = {str(run.fact("experiment") or "") for group in groups for run in group.runs}
    named = " and ".join(sorted(name.replace("_", " ") for name in names if name))
    return (named[:1].upper() + named[1:]) or f"Comparison of {len(groups)} configurations"
