"""Optuna's storage of a study: a journal file in its folder, or a database by URL.

It receives every trial once, when it has ended, so that the tools of Optuna can read the study. The
run folders remain the source of all results.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.search.space.domains import Choices, Domain
from mobilellm.search.study.records import ENDED, FAILED, FINISHED
from mobilellm.search.study.settings import StudySettings

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
NUMBER = "trial"
"""The user attribute of Optuna's trials with the number of ours."""


@dataclass(frozen=True, kw_only=True)
class StudyTrial:
    """A trial, as a sampler sees it."""

    number: int
    status: str
    """`finished`, `pruned`, `failed` or `running`."""
    point: Mapping[str, Any]
    domains: Mapping[str, Domain]
    """Of each value of the point."""
    values: tuple[float, ...] | None = None
    """One per objective; of a pruned trial, with its last loss. None if it failed or is running."""
    losses: Mapping[int, float] = field(default_factory=dict)
    """Losses while it trained, by tokens."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Shown by the tools of Optuna."""
    sampler_state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def distributions(self) -> dict[str, "optuna.distributions.BaseDistribution"]:
        """The domains in Optuna's form."""
        return {name: distribution(self.domains[name]) for name in self.point}

    def frozen(
        self, settings: StudySettings, *, for_sampling: bool = False
    ) -> "optuna.trial.FrozenTrial":
        """The trial in Optuna's form.

        Args:
            settings: of the study.
            for_sampling: with several objectives, let a pruned trial count as complete, with its
                last loss: Optuna's samplers do not support pruned trials there.
        """
        import optuna  # an optional dependency, which takes 0.5 s to import

        states, several = optuna.trial.TrialState, len(settings.parsed_objectives) > 1
        if self.status not in ENDED:
            state = states.RUNNING
        elif self.status == FAILED or self.values is None:
            state = states.FAIL
        elif self.status == FINISHED or (several and for_sampling):
            state = states.COMPLETE
        else:
            state = states.PRUNED
        has_values = state == states.COMPLETE or (state == states.PRUNED and not several)
        return optuna.trial.create_trial(
            state=state,
            params=dict(self.point),
            distributions=self.distributions,
            values=self.values if has_values else None,
            user_attrs={NUMBER: self.number, **self.attributes},
            system_attrs=dict(self.sampler_state),
            intermediate_values={} if several else dict(self.losses),
        )


def distribution(domain: Domain) -> "optuna.distributions.BaseDistribution":
    """A domain in Optuna's form, equal to that of `proposals.suggest`."""
    from optuna import distributions  # an optional dependency, which takes 0.5 s to import

    if isinstance(domain, Choices):
        return distributions.CategoricalDistribution(list(domain.options))
    if domain.is_whole:
        return distributions.IntDistribution(
            int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return distributions.FloatDistribution(
        domain.low, domain.high, log=domain.log, step=domain.step
    )


def create_study(
    settings: StudySettings,
    storage: "optuna.storages.BaseStorage | None",
    sampler: "optuna.samplers.BaseSampler | None" = None,
    name: str | None = None,
) -> "optuna.Study":
    """Create or open a study of Optuna; without a storage it is in memory."""
    import optuna  # an optional dependency, which takes 0.5 s to import

    directions: Any = ["maximize" if one.is_maximized else "minimize"
                       for one in settings.parsed_objectives]  # fmt: skip
    study = optuna.create_study(
        directions=directions, storage=storage, sampler=sampler, study_name=name,
        load_if_exists=True,
    )  # fmt: skip
    if storage is not None:
        study.set_metric_names([one.name for one in settings.parsed_objectives])
    return study


@dataclass(frozen=True)
class Storage:
    """The storage of one study.

    Args:
        settings: of the study.
        folder: the folder of the study's files.
        name: of the study, under which a database keeps it.
    """

    settings: StudySettings
    folder: Path
    name: str

    def add(self, trials: Sequence[StudyTrial]) -> None:
        """Add the ended trials that it does not contain yet; call it with the study locked.

        Raises:
            ValueError: the database cannot be opened.
        """
        with quiet_optuna():
            study = self._study()
            known = {trial.user_attrs.get(NUMBER) for trial in study.get_trials(deepcopy=False)}
            study.add_trials(
                [
                    one.frozen(self.settings)
                    for one in trials
                    if one.status in ENDED and one.number not in known
                ]
            )

    def _study(self) -> "optuna.Study":
        import optuna  # an optional dependency, which takes 0.5 s to import
        from optuna.storages.journal import JournalFileBackend

        url = self.settings.storage
        try:
            if url is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                backend = JournalFileBackend(str(self.folder / JOURNAL))
                return create_study(
                    self.settings, optuna.storages.JournalStorage(backend), name=self.name
                )
            return create_study(self.settings, optuna.storages.get_storage(url), name=self.name)
        except Exception as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ValueError(
                f"search.storage={url} cannot be opened ({' '.join(str(error).split())[:300]}); "
                "give the URL of a database, such as sqlite:///study.db, or null"
            ) from error


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Show only Optuna's errors: its notes on every trial and its warnings on stable features.

    Raises:
        ValueError: Optuna is not installed.
    """
    try:
        import optuna  # an optional dependency, which takes 0.5 s to import
    except ModuleNotFoundError as error:
        raise ValueError(
            'a search needs the package optuna; install it with pip install "mobilellm[search]"'
        ) from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Given to every user of `target`, whether its low values are the good ones or not.
            warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes")
            yield
    finally:
        optuna.logging.set_verbosity(before)
