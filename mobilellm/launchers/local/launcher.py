"""`hydra/launcher=local`: each trial in a process of its own, several at a time."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mobilellm.hydra_app.sweep_check import Trial, common_overrides
from mobilellm.launchers.local.fork_server import start_fork_server
from mobilellm.launchers.local.gpus import visible_gpus
from mobilellm.launchers.local.jobs import Job
from mobilellm.launchers.local.supervisor import Supervisor
from mobilellm.launchers.sweep_launcher import SweepLauncher, job_return
from mobilellm.ranges import Range, checked

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

COUNT = Range(at_least=1, cap=4096)
PLUGIN_MODULE = "hydra_plugins.mobilellm_local"


class LocalLauncher(SweepLauncher):
    """Runs the trials of a sweep on this machine; arguments as in conf/hydra/launcher/local.yaml.

    A trial that fails or is killed ends no other. Results are the files that the trials write.

    Raises:
        ValueError: a number of jobs, threads or attempts below 1.
    """

    # Hydra accepts launchers from the package `hydra_plugins` only; see `sweep_launcher.register`.
    __module__ = PLUGIN_MODULE

    @checked("hydra.launcher.", n_jobs=COUNT, threads_per_job=COUNT, attempts=COUNT)
    def __init__(
        self,
        n_jobs: int | None = None,
        threads_per_job: int | None = None,
        attempts: int = 1,
        preload: Sequence[str] = (),
    ) -> None:
        """Fill in what the machine decides."""
        self.gpus = visible_gpus()
        cores = usable_cores()
        # Nothing here depends on how many trials are left: a resumed trial must find the same
        # number of threads, or its sums would differ in the last bit.
        self.n_jobs = n_jobs or len(self.gpus) or cores
        self.threads = threads_per_job or max(1, cores // self.n_jobs)
        self.attempts = attempts
        self.preload = list(preload)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> "Sequence[JobReturn]":
        """Run one batch of trials.

        Returns:
            One entry a trial: its summary.json as a dict, or what there is of it.

        Raises:
            ValueError: the task cannot be imported by another process.
            Stopped: a signal ended the sweep, after the running trials have saved.
        """
        task = self.task
        trials = self.trials(job_overrides, initial_job_idx)
        jobs = [self._job(trial) for trial in trials]
        supervisor = Supervisor(
            task=task,
            n_jobs=self.n_jobs,
            threads=self.threads,
            gpus=self.gpus,
            attempts=self.attempts,
            preload=self.preload,
            common=common_overrides(trials),
        )
        outcomes = supervisor.run(jobs)
        for outcome in outcomes:
            if outcome.status == "failed":
                self.remember_failure(outcome.job.name, outcome.error or "")
        return [job_return(outcome.job.config, outcome.result()) for outcome in outcomes]

    def _job(self, trial: Trial) -> Job:
        readable = trial.folder.name if trial.folder else trial.name
        name = re.sub(r"[^A-Za-z0-9=.,+_-]+", "_", readable)[:150]
        log = Path(str(self.config.hydra.sweep.dir)) / "logs" / f"{name}.log"
        return Job(trial.name, trial.config, trial.folder, log.absolute(), trial.swept)


def warm_up(settings: "DictConfig") -> None:
    """Check the launcher's settings, and start loading what its trials need.

    Raises:
        ValueError: as `LocalLauncher`.
        TypeError: a setting that it does not have.
    """
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    launcher = LocalLauncher(**{k: v for k, v in plain.items() if k != "_target_"})
    start_fork_server(launcher.preload, launcher.threads)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
