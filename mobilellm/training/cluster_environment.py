"""The rank of this process for Lightning, which would otherwise read environment variables."""

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from mobilellm.training.process_rank import ProcessRank

# Ports above those of common services and below the range of ephemeral ports.
FIRST_PORT, NUM_PORTS = 15_000, 16_000


def cluster_environment(process_rank: ProcessRank) -> ClusterEnvironment:
    """Make Lightning's environment for a process with the given rank.

    If there are several processes and no launcher has started them, Lightning starts the others.
    """
    if process_rank.launcher is None and process_rank.world_size > 1:
        return LightningEnvironment()
    return _KnownRankEnvironment(process_rank)


class _KnownRankEnvironment(ClusterEnvironment):
    """Environment of a process with a known rank, if all processes of the run already exist.

    It handles no signals.
    """

    def __init__(self, process_rank: ProcessRank) -> None:
        super().__init__()
        self.process_rank = process_rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        given = os.environ.get("MASTER_ADDR")
        if given is None and self.process_rank.launcher == "srun":
            nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
            return SLURMEnvironment.resolve_root_node_address(nodes)
        return given or "127.0.0.1"

    @property
    def main_port(self) -> int:
        given = os.environ.get("MASTER_PORT")
        if given is None:
            # Equal for all tasks of a SLURM job step, and different for the next step of the job.
            job, step = (int(os.environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
            return FIRST_PORT + (job + 97 * step) % NUM_PORTS
        return int(given)

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.process_rank.world_size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self.process_rank.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self.process_rank.local_rank

    def node_rank(self) -> int:
        return self.process_rank.node
