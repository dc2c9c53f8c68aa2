"""Submits trials that run from one copy of the code, and records the job of each."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mobilellm.files import write_text_atomically
from mobilellm.hydra_app.trial import without_hydra
from mobilellm.launchers.slurm.job import SlurmTrial
from mobilellm.launchers.slurm.record import JOB_CONFIG, JobRecord, write_record
from mobilellm.launchers.slurm.settings import SlurmSettings
from mobilellm.launchers.slurm.snapshot import take_snapshot
from mobilellm.launchers.slurm.submission import submit
from mobilellm.provenance import command_line

# Inside the folder of a sweep or a search: submitted trials, their logs and the copies of the code.
FOLDER = "slurm"


class SlurmSubmitter:
    """Submits trials; the code is copied once, when this is made.

    Args:
        task: an importable function of a configuration.
        folder: for the copy of the code, the submitted trials and their logs.
        name: of the job arrays.
    """

    def __init__(self, task: Callable[[DictConfig], Any], folder: Path, name: str) -> None:
        """Copy the code."""
        self.task, self.folder, self.name = task, folder, name
        self.snapshot = take_snapshot(folder)

    @property
    def without_commit(self) -> str:
        """The message for code that is not in a git repository."""
        return (
            f"the jobs run from a copy of the package in {os.path.relpath(self.snapshot.path)}; "
            "without a git repository, no commit is recorded"
        )

    def submit(self, trials: Mapping[Path, DictConfig], settings: SlurmSettings) -> list[str]:
        """Submit trials as one job array, and record the job in each run folder.

        Args:
            trials: the configuration of each trial, with its node `hydra`, by run folder.
            settings: what all of them request.

        Returns:
            The id of each job.

        Raises:
            ValueError: SLURM refuses the jobs.
        """
        bodies = [
            SlurmTrial(
                task=self.task,
                config=config,
                folder=path,
                code=self.snapshot.path,
                command=tuple(sys.argv),
                threads=settings.cpus_per_task,
                max_requeues=settings.max_requeues,
            )
            for path, config in trials.items()
        ]
        job_ids = submit(bodies, settings, self.name, self.folder)
        for job_id, (path, config) in zip(job_ids, trials.items(), strict=True):
            record = JobRecord(
                job_id=job_id,
                log=str(self.folder / f"{job_id}_0_log.out"),
                code=str(self.snapshot.path),
                commit=self.snapshot.commit,
                dirty=self.snapshot.dirty,
                command=command_line(),
                submitted_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            )
            text = OmegaConf.to_yaml(without_hydra(config), resolve=True)
            write_text_atomically(path / JOB_CONFIG, text)
            write_record(path, record)
        return job_ids
