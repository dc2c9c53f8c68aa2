"""What runs the trials of a search, by the chosen launcher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.sweep_launcher import sweep_launcher_of
from mobilellm.launchers import LocalLauncher, SlurmLauncher
from mobilellm.launchers.job_feed import JobFeed
from mobilellm.launchers.local.feed import FeedSupervisor
from mobilellm.launchers.local.jobs import Job, Outcome
from mobilellm.launchers.slurm.feed import SlurmFeed
from mobilellm.launchers.slurm.settings import settings_of
from mobilellm.launchers.slurm.submitter import FOLDER as SLURM_FOLDER
from mobilellm.pipeline.train import train


class Runner(Protocol):
    """Runs jobs."""

    def run_feed(self, feed: JobFeed) -> None:
        """Run jobs until the feed has no further one."""
        ...

    def run(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Run jobs that are known beforehand."""
        ...


def make_runner(folder: Path, *, attempts: int = 1) -> Runner:
    """The runner of the launcher that `hydra/launcher` chooses.

    Args:
        folder: of the runs; SLURM's files are in a folder of it.
        attempts: largest number of starts of a job of `run` that is killed.

    Raises:
        ValueError: the launcher cannot run trials that are chosen one by one, or its settings are
            not valid.
    """
    settings = HydraConfig.get().launcher
    launcher = sweep_launcher_of(settings)
    if launcher is SlurmLauncher:
        whole: Any = HydraConfig.instance().cfg
        slurm = settings_of(whole)
        return SlurmFeed(
            train, slurm, folder.absolute() / SLURM_FOLDER, folder.name, attempts=attempts
        )
    if launcher is not LocalLauncher:
        raise CommandError(
            "mobilellm search runs its trials with hydra/launcher=local, several at a time (one "
            "with hydra.launcher.n_jobs=1), or with hydra/launcher=slurm; not with "
            f"{settings._target_}"
        )
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    local = LocalLauncher(**{key: value for key, value in plain.items() if key != "_target_"})
    return FeedSupervisor(
        task=train,
        n_jobs=local.n_jobs,
        threads=local.threads,
        gpus=local.gpus,
        preload=local.preload,
        attempts=attempts,
    )
