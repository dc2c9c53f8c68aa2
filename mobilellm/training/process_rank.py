"""Determine the rank of this process in a run.

The requested devices and nodes determine the number of processes, and the environment must agree.
The variables of `torchrun` or `srun` are used only if the set is complete; single variables that
are left over from another program are not.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

# Variables with the rank of this process, or the number of processes.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
SLURM_RANK_VARIABLES = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True, kw_only=True)
class ProcessRank:
    """The rank of a process among all processes of a run, and on its node."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of the same node."""
    node: int = 0
    world_size: int = 1
    local_world_size: int = 1
    launcher: str | None = None
    """`torchrun` or `srun`, if it started the processes; None: this process starts the others."""


def find_process_rank(
    devices: int | str,
    num_nodes: int,
    local_devices: int,
    environment: Mapping[str, str] = os.environ,
) -> ProcessRank:
    """Find the rank of this process in a run of `devices` times `num_nodes` processes.

    If `srun` started several tasks and one device is requested, each task is a separate run.

    Args:
        devices: processes per node, or `auto`: as many as were started, else `local_devices`.
        num_nodes: number of machines.
        local_devices: the value of `auto` if no launcher has started several processes.
        environment: environment variables, some of which a launcher sets.

    Raises:
        ValueError: another number of processes was started, or the variables of a launcher are
            incomplete.
    """
    launched = launched_process_rank(environment)
    has_one = (devices, num_nodes) == (1, 1)
    if (
        launched is not None
        and launched.launcher == "srun"
        and (has_one or launched.world_size == 1)
    ):
        launched = None
    if launched is not None:
        per_node = launched.local_world_size if devices == "auto" else int(devices)
        if (launched.world_size, launched.local_world_size) != (per_node * num_nodes, per_node):
            raise ValueError(
                f"trainer.devices={devices} on trainer.num_nodes={num_nodes} are "
                f"{per_node * num_nodes} processes, and {launched.launcher} started "
                f"{launched.world_size}, {launched.local_world_size} on this node; give "
                "trainer.devices=auto and the number of nodes, or start that many processes"
            )
        return launched
    per_node = local_devices if devices == "auto" else int(devices)
    misleading = ignored_rank_variables(environment)
    if per_node * num_nodes > 1 and misleading:
        raise ValueError(
            f"{misleading} in the environment, but neither torchrun nor srun has started this "
            f"process as one of the {per_node * num_nodes} processes of trainer.devices={devices} "
            f"and trainer.num_nodes={num_nodes}; unset the variables that are left over (env -u "
            f"{misleading.partition('=')[0]} …), or start the command with torchrun or srun"
        )
    return ProcessRank(world_size=per_node * num_nodes, local_world_size=per_node)


def launched_process_rank(environment: Mapping[str, str] = os.environ) -> ProcessRank | None:
    """The rank according to a launcher's variables; None if they are incomplete."""
    return _torchrun_rank(environment) or _srun_rank(environment)


def ignored_rank_variables(
    environment: Mapping[str, str] = os.environ, *, is_alone: bool = False
) -> str:
    """List the variables that a process without a launcher ignores, as `SLURM_PROCID=3, …`.

    Args:
        environment: all environment variables.
        is_alone: list only the variables that indicate other processes.
    """
    names = [name for name in RANK_VARIABLES if name in environment]
    if is_alone:
        names = [name for name in names if environment[name] != _single_process_value(name)]
    # A batch script has these variables too; with one task, it is a single process.
    names += [
        n
        for n in SLURM_RANK_VARIABLES
        if environment.get(n, _single_process_value(n)) != _single_process_value(n)
    ]
    return ", ".join(f"{name}={environment[name]}" for name in names)


def _single_process_value(name: str) -> str:
    return "1" if name in SIZES else "0"


def _torchrun_rank(environment: Mapping[str, str]) -> ProcessRank | None:
    """The rank by the variables of torchrun, Lightning and most job controllers, or None."""
    size, local_rank = _number(environment, "WORLD_SIZE"), _number(environment, "LOCAL_RANK")
    if size is None or local_rank is None or not {"MASTER_ADDR", "MASTER_PORT"} <= set(environment):
        return None
    node = _number(environment, "GROUP_RANK", "NODE_RANK")
    local_size = _number(environment, "LOCAL_WORLD_SIZE")
    rank = _number(environment, "RANK")
    if "RANK" not in environment and node is not None:
        # Like Lightning, assume the same number of processes on each node.
        local_size = local_size or size
        rank = node * local_size + local_rank
    if rank is None:
        return None
    local_size = local_size or size
    found = ProcessRank(
        rank=rank, local_rank=local_rank, node=node or rank // local_size, world_size=size,
        local_world_size=local_size, launcher="torchrun",
    )  # fmt: skip
    return found if rank < size and local_rank < local_size <= size else None


def _srun_rank(environment: Mapping[str, str]) -> ProcessRank | None:
    """The rank of a task of srun, or None; a batch script without srun is not such a task."""
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS",
             "SLURM_STEP_NUM_NODES", "SLURM_STEP_ID")  # fmt: skip
    numbers = [_number(environment, name) for name in names]
    if None in numbers:
        return None
    rank, local_rank, node, size, nodes, _ = (number or 0 for number in numbers)
    return ProcessRank(
        rank=rank, local_rank=local_rank, node=node, world_size=size,
        local_world_size=max(1, size // max(1, nodes)), launcher="srun",
    )  # fmt: skip


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    """The value of the first of these variables that is a whole number."""
    found = (environment[name] for name in names if environment.get(name, "").isdecimal())
    return next((int(text) for text in found), None)
