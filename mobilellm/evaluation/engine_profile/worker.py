"""The process that measures one case once: it opens the model, runs it and closes it again.

It reads the case as JSON from its standard input, and writes one line of JSON to its standard
output. What engines print goes to the standard error.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobilellm.evaluation.engine_profile.counters import EnergyCounter, memory_bytes
from mobilellm.evaluation.engine_profile.plan import BY_PROMPT
from mobilellm.evaluation.engines.engine import Engine

Open = Callable[[], Engine]


def main() -> None:
    """Measure the case in the standard input."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = json.load(sys.stdin)
    opened = opener(settings["case"], settings["context"])
    tokens = random_tokens(max(settings["prompt_lengths"]), settings["case"]["config"])
    before = memory_bytes()
    sample = measure_round(opened, tokens, settings, EnergyCounter())
    sample["memory_before_bytes"], sample["peak_memory_bytes"] = before, memory_bytes("VmHWM")
    answer.write(json.dumps(sample, allow_nan=False) + "\n")
    answer.close()


def opener(case: dict[str, Any], context: int) -> Open:
    """A function that opens the model of a case in its engine; imports the engine's package."""
    path, threads = Path(case["path"]), case["threads"]
    if case["engine"] == "llamacpp":
        import_package("xllamacpp")
        from mobilellm.evaluation.engines.llama_cpp import LlamaCpp

        return lambda: LlamaCpp(path, context=context, threads=threads)
    if case["engine"] == "executorch":
        import_package("executorch.runtime")
        from mobilellm.evaluation.engines.executorch_engine import ExecuTorch

        return lambda: ExecuTorch(path, threads=threads)
    import torch

    from mobilellm.checkpoint import load_model
    from mobilellm.evaluation.engines.torch_engine import TorchEngine

    torch.set_num_threads(threads)
    return lambda: TorchEngine(load_model(path).float().eval(), context=context)


def import_package(name: str) -> None:
    """Import the package of an engine, so that its time does not count as loading a model.

    A package that is missing is reported by the engine.
    """
    import contextlib
    import importlib

    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def random_tokens(number: int, config: dict[str, Any]) -> list[int]:
    """The same random token ids for all models of one vocabulary."""
    source = random.Random(0)
    return [source.randrange(config["vocab_size"]) for _ in range(number)]


def measure_round(
    opened: Open, tokens: list[int], settings: dict[str, Any], energy: EnergyCounter
) -> dict[str, Any]:
    """Open the model, run it with every length of prompt, and close it.

    Args:
        opened: opens the model.
        tokens: at least as many as the longest prompt.
        settings: `prompt_lengths` and `decode_tokens`.
        energy: of this machine.

    Returns:
        Milliseconds by name. `load_ms`: until the engine has opened the file; `init_ms`: what it
        prepares before the first token; `first_run_ms`: reading the shortest prompt for the first
        time, with what the engine does then only. And by length of the prompt: `prefill_ms`, from
        the prompt to the first token; `decode_ms`, per further token; `decode_joules`, the energy
        of the machine per further token (with that of reading the prompt subtracted, which is
        measured alone), None without a counter. `start_cpu_ms`, `prefill_cpu_ms` and
        `decode_cpu_ms`: processor time of loading and initialization, and of the other two.
    """
    count = settings["decode_tokens"]
    start, start_cpu = time.perf_counter(), time.process_time()
    engine = opened()
    loaded = time.perf_counter()
    with engine:
        engine.prepare()
        ready = time.perf_counter()
        sample: dict[str, Any] = {"load_ms": 1e3 * (loaded - start)}
        sample["init_ms"] = 1e3 * (ready - loaded)
        sample["start_cpu_ms"] = 1e3 * (time.process_time() - start_cpu)
        shortest = tokens[: min(settings["prompt_lengths"])]
        sample["first_run_ms"] = 1e3 * engine.run(shortest, 1).prefill_seconds
        sample |= {name: [] for name in BY_PROMPT}
        for length in settings["prompt_lengths"]:
            prompt = tokens[:length]
            first = 0.0
            if energy.exists:
                energy.start()
                engine.run(prompt, 1)
                first = energy.joules() or 0.0
            energy.start()
            run = engine.run(prompt, count + 1)
            joules = energy.joules()
            sample["prefill_ms"].append(1e3 * run.prefill_seconds)
            sample["decode_ms"].append(1e3 * run.decode_seconds / count)
            sample["prefill_cpu_ms"].append(1e3 * run.prefill_cpu_seconds)
            sample["decode_cpu_ms"].append(1e3 * run.decode_cpu_seconds / count)
            sample["decode_joules"].append(
                None if joules is None else max(0.0, joules - first) / count
            )
    return sample


if __name__ == "__main__":
    main()
