"""The resources that a trial requests from SLURM: the fields of conf/hydra/launcher/slurm.yaml."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from mobilellm.cli.errors import CommandError
from mobilellm.ranges import MAX_INDEX, Range, check_fields

SIGNALS = ("USR1", "USR2", "TERM")
COUNT, FROM_ZERO = Range(at_least=1, cap=1_000_000), Range(at_least=0, cap=1_000_000)
RANGES = {
    "time_minutes": Range(at_least=1, cap=MAX_INDEX), "nodes": COUNT, "tasks_per_node": COUNT,
    "gpus_per_node": FROM_ZERO, "cpus_per_task": COUNT, "signal_seconds": FROM_ZERO,
    "max_requeues": FROM_ZERO, "array_parallelism": COUNT,
    "memory_gb": Range(above=0, cap=1e6), "poll_seconds": Range(above=0, cap=1e6),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """Checked settings; conf/hydra/launcher/slurm.yaml describes each field.

    Raises:
        ValueError: a number out of range, or a signal that trials do not handle.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    nodes: int = 1
    tasks_per_node: int | Literal["auto"] = "auto"
    gpus_per_node: int | Literal["auto"] = "auto"
    cpus_per_task: int = 4
    memory_gb: float | None = None
    time_minutes: int = 1440
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256
    signal: str = "USR2"
    signal_seconds: int = 120
    max_requeues: int = 100
    setup: Sequence[str] = ()
    container: str | None = None
    python: str | None = None
    srun_arguments: Sequence[str] = ()
    sbatch_options: Mapping[str, Any] = field(default_factory=dict)
    wait: bool = False
    poll_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Check the numbers and the signal."""
        check_fields(self, "hydra.launcher.", **RANGES)
        if self.signal not in SIGNALS:
            raise ValueError(
                f"hydra.launcher.signal={self.signal!r} is not known; use one of "
                f"{', '.join(SIGNALS)}"
            )
        if self.signal_seconds >= 60 * self.time_minutes:
            raise ValueError(
                f"hydra.launcher.signal_seconds={self.signal_seconds} must be less than "
                f"time_minutes={self.time_minutes}, or the trial would stop as soon as it starts"
            )

    @property
    def processes_per_node(self) -> int:
        """One per device: processes that Lightning starts would repeat the sweep (`-m`)."""
        if self.tasks_per_node != "auto":
            return int(self.tasks_per_node)
        return max(1, int(self.gpus_per_node)) if self.gpus_per_node != "auto" else 1

    @property
    def num_gpus(self) -> int:
        """GPUs per node."""
        if self.gpus_per_node != "auto":
            return int(self.gpus_per_node)
        return 0 if self.accelerator == "cpu" else self.processes_per_node

    def sbatch(self, name: str, code: Path) -> dict[str, Any]:
        """Parameters of submitit's executor.

        Args:
            name: of the job array.
            code: the folder that `mobilellm` is imported from.
        """
        memory = None if self.memory_gb is None else f"{round(1024 * self.memory_gb)}M"
        given = {
            "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "mem": memory,
            "gpus_per_node": self.num_gpus or None,
        }  # fmt: skip
        return {key: value for key, value in given.items() if value is not None} | {
            "job_name": name,
            "time": self.time_minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.processes_per_node,
            "cpus_per_task": self.cpus_per_task,
            "array_parallelism": self.array_parallelism,
            "signal_delay_s": self.signal_seconds,
            "stderr_to_stdout": True,
            "setup": [*self.setup, *self._environment(code)],
            # Since SLURM 22.05, srun does not take --cpus-per-task over from sbatch. Without the
            # second option the other ranks would wait for a rank that has died.
            "srun_args": [
                f"--cpus-per-task={self.cpus_per_task}", "--kill-on-bad-exit=1",
                *self.srun_arguments,
            ],
            # If a node fails, SLURM requeues the trial.
            "additional_parameters": {"requeue": True, **self.sbatch_options},
        }  # fmt: skip

    def _environment(self, code: Path) -> list[str]:
        return [
            f"export SUBMITIT_PREEMPT_SIGNAL={self.signal}",
            f"export OMP_NUM_THREADS={self.cpus_per_task} MKL_NUM_THREADS={self.cpus_per_task}",
            # Import the copy of the code, and not the package in the working directory.
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export PYTHONSAFEPATH=1",
        ]


def settings_of(config: DictConfig) -> SlurmSettings:
    """The settings in the configuration of a trial, with its node `hydra`.

    Raises:
        ValueError: a setting is not valid, or does not give one process to each device.
    """
    plain: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    settings = SlurmSettings(**{k: v for k, v in plain.items() if k != "_target_"})
    for mine, number, key in (
        ("tasks_per_node", settings.processes_per_node, "trainer.devices"),
        ("nodes", settings.nodes, "trainer.num_nodes"),
    ):
        asked = OmegaConf.select(config, key)
        if isinstance(asked, int) and asked != number:
            raise CommandError(
                f"hydra.launcher.{mine}={number} processes must be {key}={asked}: each device "
                f"needs one process; leave out hydra.launcher.{mine}, or change {key}; no trial "
                "was submitted"
            )
    return settings


def common_settings(settings: Sequence[SlurmSettings]) -> SlurmSettings:
    """The settings that all trials share.

    Raises:
        ValueError: two trials ask for different resources.
    """
    first = settings[0]
    for other in settings:
        differing = [
            f"{name} {getattr(first, name)} and {getattr(other, name)}"
            for name in SlurmSettings.__dataclass_fields__
            if getattr(first, name) != getattr(other, name)
        ]
        if differing:
            raise CommandError(
                f"the trials of one job array need the same resources, not {'; '.join(differing)}; "
                "submit a separate sweep for each; no trial was submitted"
            )
    return first
