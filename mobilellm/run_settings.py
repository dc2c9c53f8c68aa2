"""Distinguishes settings that can change the result of a run from those that cannot."""

from collections.abc import Iterable, Mapping
from typing import Any

# A resolved configuration: nested mappings and lists of plain values.
Config = Mapping[str, Any]
# Limits of the tokens that depend on the model; only `max_tokens`, which follows from them, can
# change the result.
DERIVED_LIMITS = ("tokens_per_parameter", "max_flops")
EPOCHS = "epochs"
"""Another such limit, which depends on the data."""
# Settings of paths, speed, hardware and output: they cannot change the result beyond rounding.
# A resumed run keeps the recorded values of these settings unless others are given.
NOT_IDENTITY = (
    "output_dir",
    "prepared_dir",
    "experiment_name",
    "resume",
    "logger",
    "log_interval_steps",
    "micro_batch_size",
    *DERIVED_LIMITS,
    EPOCHS,
    "model.latency_device",
    "data.dir",
    "data.prepared_dir",
    "data.workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.num_threads",
    "trainer.compile",
    "trainer.activation_checkpointing",
    "trainer.cuda_graph",
)


def flat_config(config: object, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to a dictionary with dotted keys."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flat_config(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def is_identity(key: str) -> bool:
    """Whether the setting with this dotted key may change the result; see `NOT_IDENTITY`."""
    return not is_among(key, NOT_IDENTITY)


def is_among(key: str, names: Iterable[str]) -> bool:
    """Whether the setting with this dotted key, or a node that contains it, is one of `names`."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
