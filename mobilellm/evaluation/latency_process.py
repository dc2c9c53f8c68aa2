"""Times decoding in a process of its own, so that the caller needs no torch and does not wait.

The process reads a request as JSON from its standard input, and writes the milliseconds per decoded
token of each model and round to its standard output.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from mobilellm.models import ModelConfig


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """Models with random weights that are timed side by side on the CPU, at batch size 1."""

    models: tuple[ModelConfig, ...]
    threads: int
    context: int
    """Tokens in the KV cache before those that are timed."""
    decode_tokens: int
    """Tokens decoded one by one in each round."""
    rounds: int


@dataclass(frozen=True, kw_only=True)
class LatencyTimes:
    """The result of a measurement."""

    rounds: tuple[tuple[float, ...], ...]
    """Milliseconds per token of each round, for each model."""
    processor_share: float
    """Share of the time in which the process had a processor; below 1 if other work ran too."""


class LatencyProcess:
    """A running measurement."""

    def __init__(self, request: LatencyRequest) -> None:
        """Start the process."""
        content = asdict(request) | {"models": [model.to_dict() for model in request.models]}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mobilellm.evaluation.latency_process"],
            env=os.environ | {"OMP_NUM_THREADS": str(request.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._content = json.dumps(content, allow_nan=False)

    def result(self, seconds: float | None = None) -> LatencyTimes:
        """Wait for the end of the measurement.

        Args:
            seconds: the longest time to wait; None: no limit.

        Raises:
            RuntimeError: the process took longer, or ended with an error.
        """
        try:
            out, error = self._process.communicate(self._content, timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise RuntimeError(f"it took more than {seconds:.0f} seconds") from None
        if self._process.returncode:
            raise RuntimeError((error.strip().splitlines() or ["the process was killed"])[-1])
        answer = json.loads(out)
        rounds = tuple(tuple(each) for each in answer["rounds"])
        return LatencyTimes(rounds=rounds, processor_share=answer["processor_share"])


def measure(content: Any) -> dict[str, Any]:
    """Answer a request that was read as JSON."""
    import torch  # the process that starts this one must not load it

    from mobilellm.evaluation.latency import time_rounds
    from mobilellm.models import MobileLLM

    torch.set_num_threads(content["threads"])
    models = {
        str(number): MobileLLM(ModelConfig.from_dict(model)).eval()
        for number, model in enumerate(content["models"])
    }
    start, busy = time.perf_counter(), time.process_time()
    seconds = time_rounds(
        models, prefill_tokens=content["context"], decode_tokens=content["decode_tokens"],
        rounds=content["rounds"],
    )  # fmt: skip
    busy, wall = time.process_time() - busy, time.perf_counter() - start
    return {
        "rounds": [[1000 * decode for _, decode in seconds[name]] for name in models],
        "processor_share": min(1.0, busy / wall),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.stdin.read())), allow_nan=False))
