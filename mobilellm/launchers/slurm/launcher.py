"""`hydra/launcher=slurm`: a sweep as one job array that runs from a copy of the code."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from mobilellm.cli.command import Stopped
from mobilellm.cli.errors import CommandError
from mobilellm.command_names import command_for
from mobilellm.hydra_app.sweep_launcher import SweepLauncher, job_return
from mobilellm.hydra_app.trial import Trial
from mobilellm.launchers.monitor.overview import Counts, Overview, RunningTrial
from mobilellm.launchers.slurm.queue import SlurmError, require_slurm
from mobilellm.launchers.slurm.settings import SlurmSettings, common_settings, settings_of
from mobilellm.launchers.slurm.state import RunState, run_states, shown_log
from mobilellm.launchers.slurm.submission import require_submitit
from mobilellm.launchers.slurm.submitter import FOLDER, SlurmSubmitter
from mobilellm.run_folder import read_summary


class SlurmLauncher(SweepLauncher):
    """Submits the trials of a sweep; arguments as in conf/hydra/launcher/slurm.yaml.

    Trials that are finished, or whose job is still queued or running, are not submitted again.

    Raises:
        ValueError: as `SlurmSettings`.
        TypeError: a setting that does not exist.
    """

    choice = "slurm"

    def __init__(self, **settings: Any) -> None:
        """Check the settings; those of each trial are read again when it is submitted."""
        SlurmSettings(**settings)

    @classmethod
    def prepare(cls, settings: DictConfig) -> None:
        """Check that jobs could be submitted, before any trial is composed.

        Raises:
            ValueError: submitit is not installed.
        """
        require_submitit()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit one batch of trials.

        Returns:
            One entry per trial: the content of its summary.json, if it exists.

        Raises:
            ValueError: this is not a machine of a SLURM cluster, SLURM refuses the jobs, or the
                trials need different resources.
            Stopped: Ctrl-C while waiting; the jobs keep running.
        """
        require_slurm()
        trials = {_folder(t): t for t in self.trials(job_overrides, initial_job_idx)}
        settings = common_settings([settings_of(trial.config) for trial in trials.values()])
        folder = Path(str(self.config.hydra.sweep.dir)).absolute() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        overview = Overview(Counts(len(trials)))
        # If the command runs twice at the same time, one submits and the other finds the jobs.
        with FileLock(folder / ".lock"):
            before = run_states(trials)
            _report_not_submitted(overview, trials, before)
            missing = {
                path: trial
                for path, trial in trials.items()
                if not (before[path].is_active or before[path].status == "finished")
            }
            if missing:
                self._submit(missing, settings, folder, overview)
        if settings.wait:
            unfinished = {p: t for p, t in trials.items() if before[p].status != "finished"}
            try:
                self._wait(unfinished, settings.poll_seconds, overview)
            except KeyboardInterrupt:
                raise Stopped(
                    f"no longer waiting: {overview.counts.line()}; the jobs keep running (scancel "
                    "ends them, the same command waits again)"
                ) from None
        return [
            job_return(trial.config, {"status": "queued", **(read_summary(path) or {})})
            for path, trial in trials.items()
        ]

    def _submit(
        self, trials: dict[Path, Trial], settings: SlurmSettings, folder: Path, overview: Overview
    ) -> None:
        submitter = SlurmSubmitter(self.task, folder, Path(str(self.config.hydra.sweep.dir)).name)
        if submitter.snapshot.commit is None:
            overview.print_line(submitter.without_commit)
        job_ids = submitter.submit({path: t.config for path, t in trials.items()}, settings)
        array = job_ids[0].partition("_")[0]
        overview.print_line(
            f"submitted {_count(len(trials))} as job {array}; see {command_for('status')} "
            f"{os.path.relpath(folder.parent)}; cancel with scancel {array}"
        )

    def _wait(self, trials: dict[Path, Trial], poll_seconds: float, overview: Overview) -> None:
        """Return when no trial has a queued or running job; report each trial that ends."""
        left, started = dict(trials), time.monotonic()
        overview.counts.skipped = overview.counts.total - len(left)
        with overview:
            while left:
                time.sleep(poll_seconds)
                try:
                    states = run_states(left)
                except SlurmError:
                    # The controller may be restarting, so the query is repeated.
                    continue
                for path in [path for path, state in states.items() if not state.is_active]:
                    self._report(left.pop(path), states[path], overview)
                seconds = time.monotonic() - started
                overview.refresh(
                    [
                        RunningTrial(trial.name, path, seconds, trial.swept)
                        for path, trial in left.items()
                        if states[path].status == "running"
                    ]
                )

    def _report(self, trial: Trial, state: RunState, overview: Overview) -> None:
        counts = overview.counts
        setattr(counts, state.status, getattr(counts, state.status) + 1)
        text = f"[{counts.done}/{counts.total}] {state.status} {trial.name}"
        if state.status == "failed" and state.record is not None:
            reason = f"{state.reason}; log: {shown_log(state.record)}"
            self.record_failure(trial.name, reason)
            text += f": {reason}"
        overview.print_line(text)


def _folder(trial: Trial) -> Path:
    if trial.folder is None:
        raise CommandError(
            "hydra/launcher=slurm must know the run folders in advance; use Hydra's basic sweeper "
            "(key=value1,value2 or hydra.sweeper.params), or hydra/launcher=local"
        )
    return trial.folder.absolute()


def _report_not_submitted(
    overview: Overview, trials: dict[Path, Trial], states: dict[Path, RunState]
) -> None:
    finished = sum(state.status == "finished" for state in states.values())
    if finished:
        all_of = f"all {len(trials)} trials are" if finished == len(trials) else None
        overview.print_line(
            f"{all_of or f'{finished} of {_count(len(trials))} are'} already finished"
        )
    for path, state in states.items():
        if state.is_active:
            overview.print_line(f"already {state.status} as {state.job}: {trials[path].name}")


def _count(number: int) -> str:
    return f"{number} trial{'s' if number != 1 else ''}"
