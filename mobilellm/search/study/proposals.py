"""Proposes the points of new trials, by Optuna's samplers or by the grid.

A sampler works on a copy of the study in memory, which contains the ended trials of the storage and
those that are training. Points that are not feasible or that have been tried are rejected there, so
that only trials that will run are written to the storage. A proposal depends only on the seed, its
number and the results so far: a search that is continued draws no point again.
"""

import hashlib
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mobilellm.search.space.domains import Choices, Domain
from mobilellm.search.space.feasibility import Candidate, Feasibility, Rejection, settings_key
from mobilellm.search.study.settings import StudySettings
from mobilellm.search.study.storage import StudyTrial, create_study, quiet_optuna

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

SAMPLER_DRAWS = {"gp": 8}
"""Points that a sampler may propose for one trial before random points are drawn instead, by name.
The Gaussian process is fitted anew for each of them."""
MANY_DRAWS = 50
"""The same for the other samplers."""
RANDOM_DRAWS = 2_000
"""Random points that are drawn before the search gives up."""

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Proposal:
    """The point of a new trial."""

    candidate: Candidate
    origin: str
    """The sampler, or `random` if it found no new feasible point."""
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler stores with the trial, such as its generation."""


@dataclass(frozen=True)
class Proposer:
    """Proposes feasible points that have not been tried."""

    feasibility: Feasibility
    settings: StudySettings

    @property
    def _draws(self) -> int:
        return SAMPLER_DRAWS.get(self.settings.sampler, MANY_DRAWS)

    def propose(
        self,
        number: int,
        trials: Sequence[StudyTrial],
        tried: Collection[Key],
    ) -> Proposal | None:
        """The point of trial `number`.

        Args:
            number: of the trial, from 0.
            trials: all earlier trials.
            tried: keys of the settings of all trials, and of points that cannot be trained.

        Returns:
            None if no feasible point is left, or if none was found.
        """
        if self.settings.sampler == "grid":
            left = (one for one in self.feasibility.candidates()
                    if settings_key(one.settings) not in tried)  # fmt: skip
            found = next(left, None)
            return None if found is None else Proposal(found, "grid")
        found = self._sampled(number, trials, tried)
        return found or self._random(number, tried)

    def _sampled(
        self,
        number: int,
        trials: Sequence[StudyTrial],
        tried: Collection[Key],
    ) -> Proposal | None:
        """A point of the sampler; None if it proposes no new feasible one."""
        import optuna  # an optional dependency, which takes 0.5 s to import

        with quiet_optuna():
            study = self._copy(number, trials)
            for _ in range(self._draws):
                trial = study.ask()
                point = self.feasibility.space.choose(
                    lambda name, domain, trial=trial: suggest(trial, name, domain),
                    self.feasibility.num_blocks,
                )
                found = self.feasibility.check(point)
                if isinstance(found, Candidate) and settings_key(found.settings) not in tried:
                    state = study.get_trials(deepcopy=False)[trial.number].system_attrs
                    return Proposal(found, self.settings.sampler, dict(state))
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def _copy(self, number: int, trials: Sequence[StudyTrial]) -> "optuna.Study":
        """The study in memory."""
        study = create_study(self.settings, None, make_sampler(self.settings, number))
        study.add_trials([one.frozen(self.settings, for_sampling=True) for one in trials])
        return study

    def _random(self, number: int, tried: Collection[Key]) -> Proposal | None:
        generator = random.Random(_seed(self.settings.seed, number, "random"))
        for _ in range(RANDOM_DRAWS):
            found = self.feasibility.draw(generator)
            if isinstance(found, Rejection) or settings_key(found.settings) in tried:
                continue
            if self.settings.sampler != "random":
                logger.info(
                    "trial %d: the sampler proposed no new feasible point in %d attempts; a random "
                    "one is used", number, self._draws,
                )  # fmt: skip
            return Proposal(found, "random")
        return None


def make_sampler(settings: StudySettings, number: int) -> "optuna.samplers.BaseSampler":
    """The sampler for one trial, with a seed of its own.

    Random trials precede those that depend on results: a quarter of all, between 4 and 10.

    Raises:
        ValueError: the sampler is unknown.
    """
    import optuna  # an optional dependency, which takes 0.5 s to import

    seed = _seed(settings.seed, number, settings.sampler)
    startup = min(10, max(4, settings.n_trials // 4))
    kind = settings.sampler
    if kind == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
    if kind == "nsgaii":
        # Generations of an eighth of all trials, so that selection takes place.
        size = min(50, max(4, settings.n_trials // 8))
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=size)
    if kind == "gp":
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=startup, warn_independent_sampling=False
        )
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    raise ValueError(f"search.sampler={kind!r} has no sampler of Optuna")


def suggest(trial: Any, name: str, domain: Domain) -> Any:
    """Let Optuna choose a value."""
    if isinstance(domain, Choices):
        return trial.suggest_categorical(name, list(domain.options))
    if domain.is_whole:
        return trial.suggest_int(
            name, int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log
        )
    return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)


def _seed(*parts: object) -> int:
    """A seed that differs between trials."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
