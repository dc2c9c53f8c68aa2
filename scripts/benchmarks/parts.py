"""Which measurement is meant by which name, and how long it takes."""

from typing import Any


def measure(part: str, *, rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Measure one part.

    Args:
        part: its name, as `scripts/benchmark.py --help` lists them.
        rounds: in which contestants take turns.
        quick: one short round: to see that it runs, not to believe the figures.
    """
    rounds = 1 if quick else rounds
    seconds = 0.2 if quick else 3.0
    rows: list[dict[str, Any]]
    match part:
        case "train":
            from scripts.benchmarks.train_step import measure_train_steps

            rows = measure_train_steps(rounds=rounds, seconds=seconds)
        case "litgpt":
            from scripts.benchmarks.train_step import measure_litgpt

            rows = measure_litgpt(rounds=rounds, seconds=seconds)
        case "memory":
            from scripts.benchmarks.step_memory import measure_memory

            rows = measure_memory(rounds=rounds)
        case "decode":
            from scripts.benchmarks.decode import measure_decode

            rows = measure_decode(rounds=rounds, new_tokens=4 if quick else 64)
        case "loop":
            from scripts.benchmarks.loop import measure_loop

            rows = measure_loop(rounds=rounds, steps=6 if quick else 40)
        case "startup":
            from scripts.benchmarks.startup import measure_startup

            rows = measure_startup(rounds=rounds)
        case "data":
            from scripts.benchmarks.preparation import measure_preparation

            rows = measure_preparation(megabytes=8 if quick else 120)
        case "gpu":
            from scripts.benchmarks.gpu import measure_gpu

            rows = measure_gpu(rounds=rounds)
        case "factorized":
            from scripts.benchmarks.factorized import measure_factorized

            rows = measure_factorized(rounds=rounds, seconds=seconds, quick=quick)
        case _:
            raise ValueError(f"part={part!r} is not known; see scripts/benchmark.py --help")
    return rows
