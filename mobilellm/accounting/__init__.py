"""Parameters, FLOPs and memory of a model, computed from its configuration without torch."""

from mobilellm.accounting.activation_memory import activation_bytes
from mobilellm.accounting.cluster import Cluster
from mobilellm.accounting.energy import joules_per_token
from mobilellm.accounting.flops import Flops, flops_per_token
from mobilellm.accounting.memory import (
    decode_bytes_per_token,
    kv_cache_bytes_per_token,
    weight_bits,
    weight_bytes,
)
from mobilellm.accounting.parameters import (
    ParameterCounts,
    applications,
    count_parameters,
    packed_parameters,
)
from mobilellm.accounting.training_memory import (
    TrainingMemory,
    checkpoint_bytes,
    largest_micro_batch,
    optimizer_bytes,
    training_memory_bytes,
)

__all__ = [
    "Cluster",
    "Flops",
    "ParameterCounts",
    "TrainingMemory",
    "activation_bytes",
    "applications",
    "checkpoint_bytes",
    "count_parameters",
    "decode_bytes_per_token",
    "flops_per_token",
    "joules_per_token",
    "kv_cache_bytes_per_token",
    "largest_micro_batch",
    "optimizer_bytes",
    "packed_parameters",
    "training_memory_bytes",
    "weight_bits",
    "weight_bytes",
]
