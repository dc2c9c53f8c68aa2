"""The names of the measurements, their functions, and their settings."""

from importlib import import_module
from typing import Any


def measure(part: str, *, rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Measure one part.

    Args:
        part: one of the names that `scripts/benchmark.py --help` lists.
        rounds: number of alternating rounds.
        quick: one short round, to check that the measurement runs; its figures mean nothing.

    Raises:
        ValueError: the part does not exist.
    """
    turns: dict[str, Any] = {"rounds": 1 if quick else rounds}
    timed = turns | {"seconds": 0.2 if quick else 3.0}
    parts: dict[str, tuple[str, str, dict[str, Any]]] = {
        "train": ("train_step", "measure_train_steps", timed),
        "litgpt": ("train_step", "measure_litgpt", timed),
        "memory": ("step_memory", "measure_memory", turns),
        "decode": ("decode", "measure_decode", turns | {"new_tokens": 4 if quick else 64}),
        "loop": ("loop", "measure_loop", turns | {"steps": 6 if quick else 40}),
        "startup": ("startup", "measure_startup", turns),
        "data": ("preparation", "measure_preparation", {"megabytes": 8 if quick else 120}),
        "factorized": ("factorized", "measure_factorized", timed | {"quick": quick}),
        "muon": ("optimizer_step", "measure_muon", timed | {"quick": quick}),
        "distillation": ("distillation", "measure_distillation", timed | {"quick": quick}),
        "adapters": ("adapters", "measure_adapters", timed | {"quick": quick}),
        "adapter_memory": ("adapter_memory", "measure_adapter_memory", turns | {"quick": quick}),
        "scaling": ("scaling", "measure_scaling", turns | {"quick": quick}),
    }
    if part not in parts:
        raise ValueError(f"part={part!r} is not known; see scripts/benchmark.py --help")
    module, function, options = parts[part]
    return getattr(import_module(f"scripts.benchmarks.{module}"), function)(**options)
