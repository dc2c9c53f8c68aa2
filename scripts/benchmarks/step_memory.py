"""Measures the peak memory of a training step, in a new process each time.

Run as a program, this module is such a process.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def measure_memory(*, rounds: int) -> list[dict[str, Any]]:
    """Measure bytes above the process after imports: 12x256, vocab_size 32,000, 4,096 tokens."""
    peaks: dict[str, list[int]] = {"ours": [], "huggingface": []}
    for _ in range(rounds):
        for name, found in peaks.items():
            result = subprocess.run(
                [sys.executable, "-m", "scripts.benchmarks.step_memory", name],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
                encoding="utf-8",
            )
            found.append(json.loads(result.stdout.splitlines()[-1])["peak_bytes"])
    ours, theirs = (statistics.median(found) for found in peaks.values())
    row = {"shape": "12x256", "vocab_size": 32_000, "tokens_per_step": 4096}
    return [row | {"ours_bytes": ours, "huggingface_bytes": theirs, "ratio": ours / theirs}]


def main(name: str) -> None:
    """Run three steps, and print their peak memory as JSON."""
    import psutil

    from mobilellm.pipeline.memory import peak_memory_bytes, reset_peak_memory
    from scripts.benchmarks.peer_models import huggingface_llama, llama_shape
    from scripts.benchmarks.peers import HuggingFaceStep, OurStep
    from scripts.benchmarks.shapes import middle_workload

    small = middle_workload(vocab_size=8, batch=1, sequence_length=8)
    huggingface_llama(llama_shape(small.config))  # so that late imports are not measured
    workload = middle_workload(vocab_size=32_000, sequence_length=512)
    reset_peak_memory("cpu")
    start = psutil.Process().memory_info().rss
    step = OurStep(workload) if name == "ours" else HuggingFaceStep(workload)
    for _ in range(3):
        step()
    sys.stdout.write(
        json.dumps({"peak_bytes": peak_memory_bytes("cpu") - start}, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
