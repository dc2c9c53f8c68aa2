"""`hydra/launcher=slurm`: a sweep as one job array, from a copy of the code."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mobilellm.cli.command import Stopped
from mobilellm.cli.errors import CommandError
from mobilellm.files import write_text_atomically
from mobilellm.hydra_app.sweep_launcher import SweepLauncher, job_return
from mobilellm.hydra_app.trial import Trial, without_hydra
from mobilellm.launchers.monitor.overview import Counts, Overview, RunningTrial
from mobilellm.launchers.slurm.job import SlurmTrial
from mobilellm.launchers.slurm.queue import SlurmError, require_slurm
from mobilellm.launchers.slurm.record import JOB_CONFIG, JobRecord, write_record
from mobilellm.launchers.slurm.settings import SlurmSettings, common_settings
from mobilellm.launchers.slurm.snapshot import take_snapshot
from mobilellm.launchers.slurm.state import RunState, run_states, shown_log
from mobilellm.provenance import command_line
from mobilellm.run_folder import read_summary

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

# Below the sweep's folder: submitted trials, their logs and the copies of the code.
FOLDER = "slurm"


class SlurmLauncher(SweepLauncher):
    """Submits the trials of a sweep; arguments as in conf/hydra/launcher/slurm.yaml.

    Trials that are finished, or whose job still waits or runs, are left alone.

    Raises:
        ValueError: as `SlurmSettings`.
        TypeError: a setting that it does not have.
    """

    choice = "slurm"

    def __init__(self, **settings: Any) -> None:
        """Refuse wrong settings; each trial's own are read when it is submitted."""
        SlurmSettings(**settings)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> "Sequence[JobReturn]":
        """Submit one batch of trials.

        Returns:
            One entry a trial: its summary.json as a dict, or what there is of it.

        Raises:
            ValueError: no SLURM here, it refuses the jobs, or the trials need different resources.
            Stopped: Ctrl-C while waiting; the jobs go on.
        """
        from filelock import FileLock

        require_slurm()
        trials = {_folder(t): t for t in self.trials(job_overrides, initial_job_idx)}
        settings = common_settings([_settings(trial.config) for trial in trials.values()])
        folder = Path(str(self.config.hydra.sweep.dir)).absolute() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        overview = Overview(Counts(len(trials)))
        # Of two equal commands at a time, one submits and the other sees the jobs.
        with FileLock(folder / ".lock"):
            before = run_states(trials)
            _tell_what_is_left_alone(overview, trials, before)
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
                    f"no longer waiting: {overview.counts.line()}; the jobs go on (scancel ends "
                    "them, the same command waits again)"
                ) from None
        return [
            job_return(trial.config, {"status": "queued", **(read_summary(path) or {})})
            for path, trial in trials.items()
        ]

    def _submit(
        self, trials: dict[Path, Trial], settings: SlurmSettings, folder: Path, overview: Overview
    ) -> None:
        task, snapshot = self.task, take_snapshot(folder)
        bodies = [
            SlurmTrial(
                task=task,
                config=trial.config,
                folder=path,
                code=snapshot.path,
                command=tuple(sys.argv),
                threads=settings.cpus_per_task,
                max_requeues=settings.max_requeues,
            )
            for path, trial in trials.items()
        ]
        name = Path(str(self.config.hydra.sweep.dir)).name
        job_ids = submit(bodies, settings, name, folder)
        for job_id, (path, trial) in zip(job_ids, trials.items(), strict=True):
            record = JobRecord(
                job_id=job_id,
                log=str(folder / f"{job_id}_0_log.out"),
                code=str(snapshot.path),
                commit=snapshot.commit,
                dirty=snapshot.dirty,
                command=command_line(),
                submitted_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            )
            text = OmegaConf.to_yaml(without_hydra(trial.config), resolve=True)
            write_text_atomically(path / JOB_CONFIG, text)
            write_record(path, record)
        array = job_ids[0].partition("_")[0]
        overview.tell(
            f"submitted {_count(len(trials))} as job {array}; see python scripts/status.py "
            f"{os.path.relpath(folder.parent)}; end with scancel {array}"
        )

    def _wait(self, trials: dict[Path, Trial], poll_seconds: float, overview: Overview) -> None:
        """Until none of these trials has a job that waits or runs; report each that ends."""
        left, started = dict(trials), time.monotonic()
        overview.counts.skipped = overview.counts.total - len(left)
        with overview:
            while left:
                time.sleep(poll_seconds)
                try:
                    states = run_states(left)
                except SlurmError:
                    # A controller that is restarted answers again.
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
        overview.tell(text)


def submit(
    bodies: Sequence[SlurmTrial], settings: SlurmSettings, name: str, folder: Path
) -> list[str]:
    """Submit the trials as one job array.

    Returns:
        The job of each.

    Raises:
        ValueError: SLURM refuses them.
    """
    # Read when submitit is imported.
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
            text += f" ({settings.num_gpus} GPUs a node were asked for; trainer=cpu asks for none)"
        raise CommandError(f"SLURM refuses the jobs: {text}; no trial was submitted") from error
    return [job.job_id for job in jobs]


def _folder(trial: Trial) -> Path:
    if trial.folder is None:
        raise CommandError(
            "hydra/launcher=slurm must know the run folders beforehand; use Hydra's basic sweeper "
            "(key=value1,value2 or hydra.sweeper.params), or hydra/launcher=local"
        )
    return trial.folder.absolute()


def _settings(config: "DictConfig") -> SlurmSettings:
    plain: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    settings = SlurmSettings(**{k: v for k, v in plain.items() if k != "_target_"})
    for mine, number, key in (
        ("tasks_per_node", settings.processes_per_node, "trainer.devices"),
        ("nodes", settings.nodes, "trainer.num_nodes"),
    ):
        asked = OmegaConf.select(config, key)
        if isinstance(asked, int) and asked != number:
            raise CommandError(
                f"hydra.launcher.{mine}={number} processes must be {key}={asked}: there is one for "
                f"each device; leave out hydra.launcher.{mine}, or change {key}; no trial was "
                "submitted"
            )
    return settings


def _tell_what_is_left_alone(
    overview: Overview, trials: dict[Path, Trial], states: dict[Path, RunState]
) -> None:
    finished = sum(state.status == "finished" for state in states.values())
    if finished:
        all_of = f"all {len(trials)} trials are" if finished == len(trials) else None
        overview.tell(f"{all_of or f'{finished} of {_count(len(trials))} are'} finished already")
    for path, state in states.items():
        if state.is_active:
            overview.tell(f"left alone, {state.status} as {state.job}: {trials[path].name}")


def _count(number: int) -> str:
    return f"{number} trial{'s' if number != 1 else ''}"
