"""Measures training steps, compared with Hugging Face's Llama and LitGPT's GPT."""

import statistics
from typing import Any

import torch

from mobilellm.accounting import flops_per_token
from mobilellm.training.device_rate import measure_matmul_rate
from scripts.benchmarks.peers import HuggingFaceStep, LitGPTStep, OurStep, has_litgpt
from scripts.benchmarks.rounds import alternate, median_ratio, repeated
from scripts.benchmarks.shapes import Workload, demo_workloads, large_workload, middle_workload


def measure_train_steps(*, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Compare with Hugging Face at each shape, one row each."""
    workloads = [*demo_workloads(), middle_workload(), large_workload()]
    return [compare_steps(one, "huggingface", rounds=rounds, seconds=seconds) for one in workloads]


def measure_litgpt(*, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Compare with LitGPT at each shape, if `LITGPT_PYTHON` is set."""
    if not has_litgpt():
        return [{"not measured": "set LITGPT_PYTHON to a Python that has the package litgpt"}]
    workloads = [*demo_workloads(), middle_workload()]
    return [compare_steps(one, "litgpt", rounds=rounds, seconds=seconds) for one in workloads]


def compare_steps(workload: Workload, peer: str, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Compare one shape: medians of rounds that alternate both steps and a matrix product."""
    ours = OurStep(workload)
    theirs = HuggingFaceStep(workload) if peer == "huggingface" else LitGPTStep(workload)
    run_ours, count = repeated(ours, seconds=seconds)

    def run_theirs() -> None:
        for _ in range(count):
            theirs()

    rates: list[float] = []

    def run_product() -> None:
        rates.append(measure_matmul_rate(seconds=0.2))

    try:
        taken = alternate(
            {"ours": run_ours, peer: run_theirs, "product": run_product}, rounds=rounds
        )
    finally:
        if isinstance(theirs, LitGPTStep):
            theirs.close()
    flops = flops_per_token(workload.config, workload.sequence_length).training
    rate = statistics.median(rates[1:])
    speed = {
        name: workload.tokens * count / statistics.median(taken[name]) for name in ("ours", peer)
    }
    return {
        "shape": workload.name,
        "parameters": sum(p.numel() for p in ours.model.parameters()),
        "tokens_per_step": workload.tokens,
        "threads": torch.get_num_threads(),
        "ours_tokens_per_second": speed["ours"],
        f"{peer}_tokens_per_second": speed[peer],
        "ratio": median_ratio(taken, "ours", peer),
        "matmul_flops_per_second": rate,
        "ours_share_of_matmul_rate": speed["ours"] * flops / rate,
        f"{peer}_share_of_matmul_rate": speed[peer] * flops / rate,
    }
