"""The program of a SLURM job, which runs one trial on each of its ranks."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mobilellm.cli.command import exit_code_of
from mobilellm.cli.messages import print_message
from mobilellm.hydra_app.errors import describe_configuration_error
from mobilellm.launchers.local.trial_process import limit_threads, run_task
from mobilellm.launchers.slurm.queue import SlurmError, job_states
from mobilellm.launchers.slurm.record import read_record, write_record
from mobilellm.provenance import CODE_ROOT


@dataclass(frozen=True, kw_only=True)
class SlurmTrial:
    """Pickled at submission; submitit calls it on every rank each time the job starts."""

    task: Callable[[DictConfig], Any]
    config: DictConfig
    folder: Path
    """The run folder, the same at every start."""
    code: Path
    """The copy of the code that was made at submission."""
    command: Sequence[str]
    """The command line that submitted the job, for the run's summary."""
    threads: int
    max_requeues: int

    def __call__(self) -> None:
        """Train, and requeue the job if a signal ended the training.

        Raises:
            SystemExit: always, with the command's exit code.
        """
        sys.argv = list(self.command)
        limit_threads(self.threads)
        code = exit_code_of(self._run, describe_configuration_error)
        if code > 128:
            # All ranks have stopped at the same step and saved. With another code than 0, srun
            # would take that for a failure and kill the first rank before it has requeued the job.
            code = 0 if _rank() or self._requeue() else code
        sys.stdout.flush()
        sys.stderr.flush()
        sys.exit(code)

    def checkpoint(self) -> Any:
        """Called by submitit if the signal arrives outside training: start the trial again."""
        # An optional package, which the process of a job has loaded.
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self) -> None:
        try:
            self._refuse_other_code()
            run_task(self.task, self.config)
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._record(describe_configuration_error(error) or text)
            raise

    def _refuse_other_code(self) -> None:
        if self.code.resolve() != CODE_ROOT:
            raise ValueError(
                f"the job imports {CODE_ROOT} and not the copy made at submission, {self.code}; "
                "hydra.launcher.setup and container must not change PYTHONPATH or PYTHONSAFEPATH"
            )

    def _record(self, reason: str) -> None:
        """Record why the first rank failed; the others fail as a consequence."""
        record = read_record(self.folder)
        if record is not None and record.error is None:
            write_record(self.folder, replace(record, error=reason))

    def _requeue(self) -> bool:
        """Requeue the job unless it was cancelled; returns False if that failed."""
        job = current_job()
        starts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if starts >= self.max_requeues:
            print_message(
                f"job {job} was requeued {starts} times, which is hydra.launcher.max_requeues; "
                "run the same command again to continue"
            )
            return False
        try:
            state = job_states([job])[job]
            # It was cancelled, or has already been requeued by somebody else.
            if state.name != "RUNNING":
                print_message(f"job {job} is {state} and not requeued")
                return True
            subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        except (SlurmError, OSError, subprocess.SubprocessError) as error:
            print_message(
                f"job {job} cannot requeue itself ({error}); run the same command again to continue"
            )
            return False
        print_message(f"job {job} is requeued and continues from its checkpoint")
        return True


def current_job() -> str:
    """The id of the job that this process belongs to, `12_3` for a task of an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0"))
