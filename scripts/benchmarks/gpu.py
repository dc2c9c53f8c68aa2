"""Measures training on a GPU: 125M, bf16, windows of 2048, compared with Hugging Face's Llama.

Both models are compiled.
"""

import statistics
from typing import Any

import torch

from mobilellm.accounting import flops_per_token
from mobilellm.training.compilation import compile_blocks_
from mobilellm.training.device_rate import measure_matmul_rate
from scripts.benchmarks.peers import HuggingFaceStep, OurStep
from scripts.benchmarks.rounds import alternate, median_ratio
from scripts.benchmarks.shapes import Workload, mobilellm_125m


def measure_gpu(*, rounds: int, steps: int = 10, batch: int = 16) -> list[dict[str, Any]]:
    """Measure tokens per second and model FLOPs utilisation; without a GPU, nothing is measured."""
    if not torch.cuda.is_available():
        return [{"not measured": "no CUDA device"}]
    workload = Workload("30x576", mobilellm_125m(), batch=batch, sequence_length=2048)
    torch.set_float32_matmul_precision("high")
    ours, theirs = OurStep(workload, "cuda"), HuggingFaceStep(workload, "cuda")
    compile_blocks_(ours.model)
    theirs.model.compile()

    def repeat(step: OurStep | HuggingFaceStep) -> None:
        for _ in range(steps):
            with torch.autocast("cuda", torch.bfloat16):
                step()
        torch.cuda.synchronize()

    taken = alternate(
        {"ours": lambda: repeat(ours), "huggingface": lambda: repeat(theirs)}, rounds=rounds
    )
    rate = measure_matmul_rate("cuda", torch.bfloat16)
    flops = flops_per_token(workload.config, workload.sequence_length).training
    speed = {
        name: workload.tokens * steps / statistics.median(times) for name, times in taken.items()
    }
    return [
        {
            "shape": workload.name,
            "device": torch.cuda.get_device_name(),
            "ours_tokens_per_second": speed["ours"],
            "huggingface_tokens_per_second": speed["huggingface"],
            "ratio": median_ratio(taken, "ours", "huggingface"),
            "matmul_flops_per_second": rate,
            "ours_share_of_matmul_rate": speed["ours"] * flops / rate,
            "huggingface_share_of_matmul_rate": speed["huggingface"] * flops / rate,
        }
    ]
