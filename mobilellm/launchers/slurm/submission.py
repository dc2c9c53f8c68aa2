"""Submit trials as one SLURM job array, with the package submitit."""

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mobilellm.cli.errors import CommandError
from mobilellm.launchers.slurm.job import SlurmTrial
from mobilellm.launchers.slurm.settings import SlurmSettings


def require_submitit() -> None:
    """Check that submitit, an optional dependency, is installed.

    Raises:
        ValueError: it is missing.
    """
    if find_spec("submitit") is None:
        raise CommandError(
            "hydra/launcher=slurm needs the package submitit, which is not installed; install it "
            'with pip install "mobilellm[slurm]"'
        )


def submit(
    bodies: Sequence[SlurmTrial], settings: SlurmSettings, name: str, folder: Path
) -> list[str]:
    """Submit the trials as one job array.

    Args:
        bodies: the trials that the jobs run.
        settings: the settings of all jobs.
        name: the name of the job array.
        folder: the folder for the scripts, the pickled trials and the logs.

    Returns:
        The job id of each trial.

    Raises:
        ValueError: SLURM refuses the jobs.
    """
    # submitit, an optional package, reads this variable when it is imported.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = settings.signal
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    python = settings.python or shlex.quote(sys.executable)
    executor = SlurmExecutor(
        folder,
        max_num_timeout=settings.max_requeues,
        python=f"{settings.container} {python}" if settings.container else python,
    )
    executor.update_parameters(**settings.sbatch(name, bodies[0].code))
    try:
        with executor.batch():
            jobs = [executor.submit(body) for body in bodies]
    except FailedJobError as error:
        text = " ".join(str(error).split())
        if settings.num_gpus and "generic resource" in text:
            text += (
                f" ({settings.num_gpus} GPUs per node were requested; trainer=cpu requests none)"
            )
        raise CommandError(f"SLURM refuses the jobs: {text}; no trial was submitted") from error
    return [job.job_id for job in jobs]
