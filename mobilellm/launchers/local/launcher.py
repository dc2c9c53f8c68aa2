"""`hydra/launcher=local`: each trial in its own process, several at a time."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.sweep_launcher import SweepLauncher, job_return
from mobilellm.hydra_app.trial import Trial, common_overrides
from mobilellm.launchers.local.fork_server import kill_fork_server, start_fork_server
from mobilellm.launchers.local.gpus import visible_gpus
from mobilellm.launchers.local.jobs import Job
from mobilellm.launchers.local.supervisor import Supervisor
from mobilellm.ranges import Range, checked

COUNT = Range(at_least=1, cap=4096)


class LocalLauncher(SweepLauncher):
    """Runs the trials of a sweep on this machine; arguments as in conf/hydra/launcher/local.yaml.

    A trial that fails or is killed does not affect the others.

    Raises:
        ValueError: a number of jobs, threads or attempts below 1.
    """

    choice = "local"

    @checked("hydra.launcher.", n_jobs=COUNT, threads_per_job=COUNT, attempts=COUNT)
    def __init__(
        self,
        n_jobs: int | None = None,
        threads_per_job: int | None = None,
        attempts: int = 1,
        preload: Sequence[str] = (),
    ) -> None:
        """Derive settings that are not given from the GPUs and cores of the machine."""
        self.gpus = visible_gpus()
        cores = usable_cores()
        # None of this may depend on how many trials are left: a resumed trial must get the same
        # number of threads, because the rounding of sums depends on it.
        self.n_jobs = n_jobs or len(self.gpus) or cores
        self.threads = threads_per_job or max(1, cores // self.n_jobs)
        self.attempts = attempts
        self.preload = list(preload)

    @classmethod
    def prepare(cls, settings: DictConfig) -> None:
        """Check the settings, and start to load the modules that the trials need.

        Raises:
            ValueError: as for the class.
            TypeError: a setting that does not exist.
        """
        plain: Any = OmegaConf.to_container(settings, resolve=True)
        launcher = cls(**{k: v for k, v in plain.items() if k != "_target_"})
        start_fork_server(launcher.preload, launcher.threads)

    @classmethod
    def check_trial(cls, config: DictConfig) -> None:
        """Refuse a trial on several GPUs, because each trial gets only one."""
        if not visible_gpus():
            return
        devices = OmegaConf.select(config, "trainer.devices")
        on_gpu = OmegaConf.select(config, "trainer.accelerator") in ("auto", "cuda")
        if on_gpu and isinstance(devices, int) and devices > 1:
            raise CommandError(
                f"trainer.devices={devices} must be 1 with hydra/launcher=local, which gives each "
                "trial one GPU; use hydra/launcher=basic, which trains one trial after the other "
                "on all GPUs, or hydra/launcher=slurm"
            )

    @classmethod
    def abandon(cls) -> None:
        """End the process that loads modules: no trial will be started."""
        kill_fork_server()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one batch of trials.

        Returns:
            One entry per trial: the content of its summary.json, if it exists.

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
                self.record_failure(outcome.job.name, outcome.error or "")
        return [job_return(outcome.job.config, outcome.result()) for outcome in outcomes]

    def _job(self, trial: Trial) -> Job:
        readable = trial.folder.name if trial.folder else trial.name
        name = re.sub(r"[^A-Za-z0-9=.,+_-]+", "_", readable)[:150]
        log = Path(str(self.config.hydra.sweep.dir)) / "logs" / f"{name}.log"
        return Job(trial.name, trial.config, trial.folder, log.absolute(), trial.swept)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
