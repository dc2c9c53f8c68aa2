"""`hydra/launcher=local`: each trial in a process of its own, several at a time."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict

from mobilellm.launchers.fork_server import start_fork_server
from mobilellm.launchers.gpus import visible_gpus
from mobilellm.launchers.supervisor import Job, Outcome, Supervisor
from mobilellm.launchers.sweep_check import Trial, as_typed, without_hydra

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

PLUGIN_MODULE = "hydra_plugins.mobilellm_local"


class LocalLauncher(Launcher):
    """Runs the trials of a sweep on this machine; arguments as in conf/hydra/launcher/local.yaml.

    A trial that fails or is killed ends no other. Results are the files that the trials write.

    Raises:
        ValueError: a number of jobs, threads or attempts below 1.
    """

    # Hydra accepts launchers from the package `hydra_plugins` only; see `register`.
    __module__ = PLUGIN_MODULE

    def __init__(
        self,
        n_jobs: int | None = None,
        threads_per_job: int | None = None,
        attempts: int = 1,
        preload: Sequence[str] = (),
    ) -> None:
        """Fill in what the machine decides."""
        for name, value in (
            ("n_jobs", n_jobs), ("threads_per_job", threads_per_job), ("attempts", attempts)
        ):  # fmt: skip
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(
                    f"hydra.launcher.{name}={value!r} must be a whole number of at least 1"
                )
        self.gpus = visible_gpus()
        cores = usable_cores()
        # Nothing here depends on how many trials are left: a resumed trial must find the same
        # number of threads, or its sums would differ in the last bit.
        self.n_jobs = n_jobs or len(self.gpus) or cores
        self.threads = threads_per_job or max(1, cores // self.n_jobs)
        self.attempts = attempts
        self.preload = list(preload)

    def setup(
        self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig"
    ) -> None:
        """Called by Hydra's sweeper."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one batch of trials.

        Returns:
            One entry a trial: its summary.json as a dict, or what there is of it.

        Raises:
            ValueError: the task cannot be imported by another process.
            Stopped: a signal ended the sweep, after the running trials have saved.
        """
        task = getattr(self.task_function, "task", self.task_function)
        if "." in getattr(task, "__qualname__", "."):
            raise ValueError(
                f"hydra/launcher=local needs a function that a new process can import, not {task}; "
                "use hydra/launcher=basic for this command"
            )
        jobs = [
            self._job(self._trial(initial_job_idx + i, overrides))
            for i, overrides in enumerate(job_overrides)
        ]
        supervisor = Supervisor(
            task=task,
            n_jobs=self.n_jobs,
            threads=self.threads,
            gpus=self.gpus,
            attempts=self.attempts,
            preload=self.preload,
        )
        outcomes = supervisor.run(jobs)
        fail: Callable[[str, str], None] | None = getattr(self.task_function, "fail", None)
        for outcome in outcomes:
            if outcome.status == "failed" and fail is not None:
                fail(outcome.job.name, outcome.error or "")
        return [self._job_return(outcome) for outcome in outcomes]

    def _trial(self, number: int, overrides: Sequence[str]) -> Trial:
        """As composed when the sweep was checked, so that later edits change nothing."""
        find: Callable[[Sequence[str]], Trial | None] | None
        find = getattr(self.task_function, "trial", None)
        trial = find(overrides) if find is not None else None
        if trial is not None:
            return trial
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return Trial(tuple(overrides), config, None)

    def _job(self, trial: Trial) -> Job:
        readable = trial.folder.name if trial.folder else trial.name
        name = re.sub(r"[^A-Za-z0-9=.,+_-]+", "_", readable)[:150]
        log = Path(str(self.config.hydra.sweep.dir)) / "logs" / f"{name}.log"
        return Job(trial.name, trial.config, trial.folder, log.absolute())

    def _job_return(self, outcome: Outcome) -> JobReturn:
        # Always "completed": Hydra would end the whole sweep at the first failed one, and
        # `SweepTask` remembers the failures.
        result = JobReturn(
            overrides=as_typed(outcome.job.config.hydra.overrides.task),
            cfg=without_hydra(outcome.job.config),
            hydra_cfg=outcome.job.config,
            working_dir=os.getcwd(),
            status=JobStatus.COMPLETED,
        )
        result.return_value = outcome.result()
        return result


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


def register() -> None:
    """Make the launcher known to Hydra under a module of the package that Hydra accepts."""
    plugins = Plugins.instance()
    try:
        import hydra_plugins  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    sys.modules[PLUGIN_MODULE] = sys.modules[__name__]
    plugins.register(LocalLauncher)
