"""Trains the best trials of a search again, longer and with several seeds, as ordinary runs."""

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mobilellm.launchers.local.jobs import Job
from mobilellm.pipeline.search.runners import make_runner
from mobilellm.pipeline.search.setup import SearchSetup
from mobilellm.pipeline.search.trial_configs import TrialConfigs
from mobilellm.report.search.results import FinalResult, SearchResults, TrialResult
from mobilellm.run_folder import read_summary

FOLDER = "finalists"
LONGER = 4
"""Tokens of a finalist as a multiple of those of a trial."""


@dataclass(frozen=True)
class Finalists:
    """The runs of the finalists of a search."""

    setup: SearchSetup
    configs: TrialConfigs

    @property
    def name(self) -> str:
        """Their experiment's name."""
        return f"{self.setup.run.experiment_name}_{FOLDER}"

    @property
    def folder(self) -> Path:
        """The folder of their runs."""
        return self.setup.root.with_name(self.name)

    def train(self, results: SearchResults) -> list[FinalResult]:
        """Train the best trials with every seed; finished runs are kept.

        Raises:
            Stopped: a signal ended the runs, which have saved.
        """
        chosen = self._chosen(results)
        jobs = {
            (one.record.number, seed): self._job(one, seed)
            for one in chosen
            for seed in self.setup.settings.final_seeds
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        # Of several controllers, one trains the finalists, and the others wait and read them.
        with FileLock(self.folder / ".lock"):
            make_runner(self.folder, attempts=self.setup.settings.attempts).run(list(jobs.values()))
        found = []
        for one in chosen:
            losses = {
                seed: float(summary["val_loss"])
                for (number, seed), job in jobs.items()
                if number == one.record.number
                and job.folder is not None
                and (summary := read_summary(job.folder) or {}).get("status") == "finished"
            }
            if losses:
                short = (one.trial.values or (0.0,))[0]
                found.append(FinalResult(one.record.number, short, losses))
        return found

    def _chosen(self, results: SearchResults) -> list[TrialResult]:
        """The front, the lowest first objective first; then the best of the others."""
        kept = sorted(results.front, key=results.scores) if len(results.objectives) > 1 else []
        others = [one for one in results.ranked if one not in kept]
        return [*kept, *others][: self.setup.settings.finalists]

    def _job(self, one: TrialResult, seed: int) -> Job:
        tokens = self.setup.settings.final_tokens or LONGER * float(self.setup.run.max_tokens)
        overrides = (
            *one.record.overrides,
            f"seed={seed}",
            f"max_tokens={tokens:g}",
            f"experiment_name={self.name}",
        )
        trial = self.configs.compose(one.record.number, overrides)
        log = self.folder / "logs" / f"{one.record.number:05d}_{seed}.log"
        return Job(trial.name, trial.config, trial.folder, log.absolute(), trial.swept)
