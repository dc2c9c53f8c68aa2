"""What a ladder says: the law of its losses, the best depth of each size, and decisions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilellm.report.ladder_decisions import SizeDecisions, decisions_by_size
from mobilellm.report.ladder_family import LadderFamily, ladder_family
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.rungs import Rung
from mobilellm.search.best_depth import BestDepth, best_depths
from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.law_validation import (
    CrossValidation,
    HeldOutSize,
    hold_out_largest,
    leave_one_shape_out,
)
from mobilellm.search.loss_law import LossLaw, fit_loss_law, missing_for_law
from mobilellm.units import count_text, join_names, plural


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The analysis of a ladder."""

    rungs: tuple[Rung, ...]
    law: LossLaw | None
    """None if the runs do not identify it."""
    missing: tuple[str, ...]
    """Why there is no law."""
    cross_validation: CrossValidation | None
    held_out: HeldOutSize | None
    """The largest size, predicted from the others; None if they do not identify the law."""
    best_depths: tuple[BestDepth, ...]
    decisions: tuple[SizeDecisions, ...]
    """By smaller and shorter runs; empty with too few depths."""
    family: LadderFamily | None
    """What the runs have in common; None if they differ in more than shape, tokens and seed."""
    family_missing: str
    """In what else they differ."""

    @property
    def shorter(self) -> tuple[RunGroup, ...]:
        """Configurations with fewer tokens than the largest budget of their size."""
        return tuple(group for rung in self.rungs for group in rung.shorter)

    def sentences(self) -> tuple[str, ...]:
        """Return the findings in sentences."""
        if self.law is None:
            found = [f"No law of the loss was fitted: {'; '.join(self.missing)}."]
        else:
            found = [_law_sentence(self.law, self.cross_validation), *_held_out_sentence(self)]
        decided = [decisions.sentence() for decisions in self.decisions]
        return (*found, *_depth_sentence(self), *decided)


def analyse_ladder(rungs: Sequence[Rung], metric: str | None) -> Ladder | None:
    """Fit the law of a ladder and compare its sizes.

    Args:
        rungs: from `find_rungs`.
        metric: of the comparison. The law is in nats per token.

    Returns:
        None if there are no rungs, or if losses are not in nats per token.
    """
    if not rungs or metric != "val_loss":
        return None
    runs, mixed = ladder_runs(rungs)
    missing = mixed or missing_for_law(runs)
    law = None if missing else fit_loss_law(runs)
    family, family_missing = ladder_family(rungs)
    return Ladder(
        rungs=tuple(rungs),
        law=law,
        missing=tuple(missing),
        cross_validation=None if law is None else leave_one_shape_out(law),
        held_out=None if law is None else hold_out_largest(runs),
        best_depths=() if mixed else best_depths(runs, law),
        decisions=decisions_by_size(rungs, metric),
        family=family,
        family_missing=family_missing,
    )


def ladder_runs(rungs: Sequence[Rung]) -> tuple[LadderRuns, list[str]]:
    """The finished runs as arrays, and what prevents one law for all of them."""
    groups = [group for rung in rungs for group in (*rung.groups, *rung.shorter)]
    rows, seen, repeated = [], {}, []
    for group in groups:
        model, first = group.model, group.first
        key = (model.num_layers, model.hidden_size, first.parameters["body"], first.tokens)
        if key in seen:
            repeated.append(f"{seen[key]} and {group.label}")
        seen[key] = group.label
        rows += [(*key, run.seed, run.val_loss) for run in group.runs]
    depth, width, body, tokens, seeds, loss = np.array(rows, float).T
    missing = []
    if repeated:
        missing.append(
            f"{repeated[0]} have the same depth, width and tokens but other settings; compare runs "
            "of one setting"
        )
    return LadderRuns(depth, width, body, tokens, seeds.astype(int), loss), missing


def _law_sentence(law: LossLaw, cross: CrossValidation | None) -> str:
    found = law.parameters()
    values = {name: value for name, (value, _, _) in found.items()}
    text = (
        f"Law of the loss: L = {values['L0']:.2f} + {values['a']:.3g} D^-{values['alpha']:.2f} + "
        f"{values['b']:.3g} W^-{values['beta']:.2f} + {values['c']:.3g} N^-{values['gamma']:.2f} "
        f"with depth D, width W and tokens N (mean error {100 * law.in_sample_error:.2f} % of the "
        "loss)."
    )
    if cross is not None:
        better = "more" if cross.law < cross.simple else "less"
        text += (
            f" Shapes that are left out of the fit are predicted within {100 * cross.law:.2f} %, "
            f"{better} precisely than by body parameters and tokens alone "
            f"({100 * cross.simple:.2f} %)."
        )
    if law.is_without_floor:
        text += (
            " The runs show no irreducible loss (L0 = 0); since text has one, losses far beyond "
            "the runs are predicted too low."
        )
    unknown = [
        f"{name} ({found[name][1]:.2g} to {found[name][2]:.2g})" for name in law.undetermined
    ]
    if unknown:
        text += (
            f" The runs do not determine {join_names(unknown)}; the losses that the law predicts "
            "near them are known better."
        )
    return text


def _held_out_sentence(ladder: Ladder) -> list[str]:
    held = ladder.held_out
    if held is None:
        return []
    sizes = [count_text(rung.body) for rung in ladder.rungs[:-1]]
    right = held.predicted_depth == held.measured_depth
    measured = "as measured" if right else f"but it was measured at {held.measured_depth:g}"
    return [
        f"Fitted to {join_names(sizes)} body parameters only, the law predicts the losses of the "
        f"largest size, {count_text(held.body)}, with a mean error of {100 * held.error:.2f} % (at "
        f"most {100 * held.largest_error:.2f} %); by body parameters and tokens alone: "
        f"{100 * held.simple_error:.2f} %. Of its depths, the law expects the lowest loss at "
        f"{plural(round(held.predicted_depth), 'layer')}, {measured}."
    ]


def _depth_sentence(ladder: Ladder) -> list[str]:
    if not ladder.best_depths:
        return []
    measured = [f"{count_text(b.body)}: {b.sentence()}" for b in ladder.best_depths]
    text = f"Best depth by size in layers, from the losses: {'; '.join(measured)}."
    by_law = [str(best.by_law) for best in ladder.best_depths if best.by_law is not None]
    return [f"{text} By the law: {join_names(by_law)}." if by_law else text]
