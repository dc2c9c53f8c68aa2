"""The GPUs and the network that a scaling forecast assumes."""

from dataclasses import dataclass, fields

from mobilellm.models.config import check_positive
from mobilellm.ranges import Range, check_fields

LATENCY = Range(at_least=0, cap=1000)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster of identical nodes with identical GPUs and one network adapter per GPU.

    The defaults are for H100 SXM with InfiniBand. Bandwidths are those of large messages, per GPU
    and direction.

    Raises:
        ValueError: a number is out of range.
    """

    flops_per_second: float = 0.4 * 989e12
    """FLOP/s of one GPU in training: 40 % of the bf16 peak. This is the least certain number: thin
    models reach less, wide models with large micro-batches reach more."""
    memory_bytes_per_second: float = 0.8 * 3.35e12
    """Memory bandwidth during the optimizer's update: 80 % of the peak of HBM3."""
    gpus_per_node: int = 8
    node_bytes_per_second: float = 370e9
    """Bandwidth within a node; nominal 450e9. Source: github.com/NVIDIA/nccl-tests/issues/212."""
    network_bytes_per_second: float = 46e9
    """Bandwidth between nodes; nominal 50e9. Source: github.com/NVIDIA/nccl-tests/issues/290."""
    node_latency_seconds: float = 1.9e-6
    """Latency of one hop within a node. Source: NCCL, src/graph/tuning.cc, protocol LL128, ring."""
    network_latency_seconds: float = 8.5e-6
    """Latency of one hop between nodes. Source: the same file, tree (4.0e-6 for a ring)."""
    overlap: float = 0.8
    """Share of the communication that can overlap with computation. The rest includes the gradient
    of the embedding, which is computed last and is up to 15 % of the communication."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        rates = (f.name for f in fields(self) if f.name.endswith("second"))
        check_fields(
            self,
            gpus_per_node=Range(at_least=1, cap=1_000_000),
            node_latency_seconds=LATENCY,
            network_latency_seconds=LATENCY,
            overlap=Range(at_least=0, at_most=1),
            **dict.fromkeys(rates, Range(above=0, cap=1e24)),
        )

    def num_nodes(self, num_gpus: int) -> int:
        """Number of nodes for `num_gpus` GPUs.

        Raises:
            ValueError: several nodes are needed, and one would be used only in part.
        """
        check_positive("num_gpus", num_gpus)
        nodes = -(-num_gpus // self.gpus_per_node)
        if nodes > 1 and num_gpus % self.gpus_per_node:
            raise ValueError(
                f"num_gpus={num_gpus} must fill its nodes of gpus_per_node={self.gpus_per_node}; "
                f"use {nodes * self.gpus_per_node}, or at most {self.gpus_per_node}"
            )
        return nodes

    def bytes_per_second(self, num_gpus: int) -> float:
        """Bandwidth per GPU of a collective operation among `num_gpus` GPUs.

        Between nodes, one ring runs through each adapter of a node and transfers a part of the
        bytes. The bandwidth is limited by the links within a node or by the sum of its adapters,
        whichever is slower.
        """
        if self.num_nodes(num_gpus) == 1:
            return self.node_bytes_per_second
        adapters = self.gpus_per_node * self.network_bytes_per_second
        return min(self.node_bytes_per_second, adapters)

    def ring_seconds(self, num_gpus: int) -> float:
        """Latency of an all-gather or a reduce-scatter: one pass around a ring."""
        nodes = self.num_nodes(num_gpus)
        inside = (num_gpus - nodes) * self.node_latency_seconds
        return inside + (nodes - 1) * self.network_latency_seconds

    def all_reduce_seconds(self, num_gpus: int) -> float:
        """Latency of an all-reduce: chains within nodes and a binary tree between them, both ways.

        Source: NCCL's cost model, src/graph/tuning.cc.
        """
        nodes = self.num_nodes(num_gpus)
        inside = (num_gpus // nodes - 1) * self.node_latency_seconds
        return 2 * (inside + (nodes - 1).bit_length() * self.network_latency_seconds)


H100_CLUSTER = Cluster()
