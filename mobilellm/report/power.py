"""The noise of the runs in words, and the seeds that a difference takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from mobilellm.report.caution import shorten_list
from mobilellm.report.statistics import FAMILY_LEVEL, Noise, level_until
from mobilellm.units import plural

DIFFERENCE = 0.01
"""The difference, in the unit of the loss, of which the seeds are given if there is no margin."""


@dataclass(frozen=True)
class PowerEstimate:
    """What can be found at this noise; 80 % power, with equal spread of all configurations."""

    noise: Noise
    smallest_difference: float
    """Found with the seeds that there are."""
    difference: float
    seeds: int | None
    """Seeds that `difference` takes; None: more than 200."""
    level: float
    """Chance of any wrong verdict at this look."""
    where: str
    """The configurations; empty if there is one estimate for all."""

    def sentence(self, unit: str) -> str:
        """Return `Noise: runs vary by 0.008 nats per token …`."""
        noise = self.noise
        many = f"{self.seeds} seeds" if self.seeds else "more than 200 seeds"
        return (
            f"Noise{self.where}: runs vary by {_short(noise.standard_deviation)} {unit} (standard "
            f"deviation within a seed, pooled over {plural(len(noise.labels), 'configuration')}; "
            f"{plural(noise.degrees, 'degree')} of freedom). {plural(noise.num_seeds, 'seed')} "
            f"find a difference of {_short(self.smallest_difference)} in 80 % of comparisons; "
            f"telling {_short(self.difference)} {unit} apart at this noise takes {many}."
        )


def look_sentence(power: Sequence[PowerEstimate], num_undecided: int, max_seeds: int) -> str:
    """Return what to do next if seeds are added until a verdict."""
    seeds = max((each.noise.num_seeds for each in power), default=0)
    where = f"Look after {plural(seeds, 'seed')} of at most {max_seeds}"
    if power:
        where += f", at a level of {100 * min(each.level for each in power):.2g} %"
    if not num_undecided:
        return f"{where}: every pair has its verdict; no more seeds are needed."
    undecided = f"{plural(num_undecided, 'pair')} without a verdict"
    if seeds >= max_seeds:
        return f"{where}: {undecided} at the limit, which ends the comparison."
    return f"{where}: {undecided}; add the next seed and compare again."


def power_estimates(
    noise: Sequence[Noise], margin: float | None, max_seeds: int | None
) -> tuple[PowerEstimate, ...]:
    """Return one estimate per set of comparable configurations whose runs vary.

    Args:
        noise: of the sets.
        margin: the difference that does not matter, if given.
        max_seeds: the limit, if seeds are added until a verdict.
    """
    wanted = margin or DIFFERENCE
    found = []
    for each in noise:
        if each.standard_deviation == 0:
            continue
        level = level_until(max_seeds)(each.num_seeds)
        where = f" among {shorten_list(each.labels)}" if len(noise) > 1 else ""
        found.append(
            PowerEstimate(
                each,
                each.smallest_difference(each.num_seeds, level),
                wanted,
                each.seeds_for(wanted, FAMILY_LEVEL),
                level,
                where,
            )
        )
    return tuple(found)


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"
