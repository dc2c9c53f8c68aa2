"""The hardware that the scaling forecast assumes: GPUs and the network between them."""

from dataclasses import dataclass, fields

from mobilellm.accounting.parameters import check_count
from mobilellm.ranges import Range, check_fields

LATENCY = Range(at_least=0, cap=1000)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Identical nodes of identical GPUs, one network adapter each; default: H100 SXM, InfiniBand.

    Bandwidths are those of large messages, per GPU and direction.

    Raises:
        ValueError: a number is not positive, or the overlap is not between 0 and 1.
    """

    flops_per_second: float = 0.4 * 989e12
    """Of one GPU in training: 40 % of the peak in bf16. The least certain number here: thin models
    reach less, large micro-batches of wide ones more."""
    memory_bytes_per_second: float = 0.8 * 3.35e12
    """For the optimizer's update: 80 % of HBM3's peak."""
    gpus_per_node: int = 8
    node_bytes_per_second: float = 370e9
    """Inside of a node: of 450e9 nominal. Source: github.com/NVIDIA/nccl-tests/issues/212."""
    network_bytes_per_second: float = 46e9
    """Between nodes: of 50e9 nominal. Source: github.com/NVIDIA/nccl-tests/issues/290."""
    node_latency_seconds: float = 1.9e-6
    """Of one hop inside of a node. Source: NCCL's src/graph/tuning.cc, protocol LL128, ring."""
    network_latency_seconds: float = 8.5e-6
    """Of one hop between nodes. Source: the same, tree; for a ring it has 4.0e-6."""
    overlap: float = 0.8
    """Fraction of the communication that can run during computation. The rest is
    the gradient of the embedding, up to 15 % of all, which is computed last."""

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
            ValueError: several nodes are needed, and one would be only partly used.
        """
        check_count("num_gpus", num_gpus)
        nodes = -(-num_gpus // self.gpus_per_node)
        if nodes > 1 and num_gpus % self.gpus_per_node:
            raise ValueError(
                f"num_gpus={num_gpus} must fill its nodes of gpus_per_node={self.gpus_per_node}; "
                f"use {nodes * self.gpus_per_node}, or at most {self.gpus_per_node}"
            )
        return nodes

    def bytes_per_second(self, num_gpus: int) -> float:
        """Of a collective among so many GPUs, per GPU.

        Across nodes a ring runs through each adapter of a node, with its share of the bytes: the
        slower of the node's links and of its adapters together decides.
        """
        if self.num_nodes(num_gpus) == 1:
            return self.node_bytes_per_second
        adapters = self.gpus_per_node * self.network_bytes_per_second
        return min(self.node_bytes_per_second, adapters)

    def ring_seconds(self, num_gpus: int) -> float:
        """Latency of an all-gather or a reduce-scatter: a ring once around."""
        nodes = self.num_nodes(num_gpus)
        inside = (num_gpus - nodes) * self.node_latency_seconds
        return inside + (nodes - 1) * self.network_latency_seconds

    def all_reduce_seconds(self, num_gpus: int) -> float:
        """Latency of an all-reduce: inside of nodes a chain, between them a binary tree, both ways.

        Source: NCCL's cost model, src/graph/tuning.cc.
        """
        nodes = self.num_nodes(num_gpus)
        inside = (num_gpus // nodes - 1) * self.node_latency_seconds
        return 2 * (inside + (nodes - 1).bit_length() * self.network_latency_seconds)


H100_CLUSTER = Cluster()
