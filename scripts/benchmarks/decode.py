"""Measures decoding: 125M model, float32, batch 1, compared with Hugging Face's `generate`."""

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F

from mobilellm.accounting import weight_bytes
from mobilellm.models import MobileLLM
from mobilellm.models.generation import generate
from scripts.benchmarks.peer_models import huggingface_llama, llama_shape
from scripts.benchmarks.rounds import alternate, median_ratio
from scripts.benchmarks.shapes import mobilellm_125m

PROMPT_TOKENS = 16


def measure_decode(*, rounds: int, new_tokens: int) -> list[dict[str, Any]]:
    """Measure tokens per second, and compare the time per token with a lower bound.

    The bound is the time to read all weights once at the memory bandwidth that a sum reaches. The
    remaining time is attention, norms, Python, and products that read more slowly than a sum. For
    comparison, the products are also measured with `F.linear`, without the packed weights of
    `models/decoding.py`.

    Args:
        rounds: number of alternating rounds.
        new_tokens: tokens generated per round.
    """
    config = mobilellm_125m()
    ours, theirs = MobileLLM(config).eval(), huggingface_llama(llama_shape(config)).eval()
    prompt = torch.randint(3, config.vocab_size, (1, PROMPT_TOKENS))

    def run_ours() -> None:
        generate(ours, prompt, max_new_tokens=new_tokens, stop_at_eos=False)

    def run_theirs() -> None:
        with torch.no_grad():
            theirs.generate(  # pyright: ignore[reportCallIssue]
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )

    products: list[float] = []
    reads: list[float] = []

    def run_bounds() -> None:
        products.append(_seconds_of_products(ours))
        reads.append(_bytes_read_per_second())

    taken = alternate(
        {"ours": run_ours, "huggingface": run_theirs, "bounds": run_bounds}, rounds=rounds
    )
    per_token = {
        name: statistics.median(taken[name]) / new_tokens for name in ("ours", "huggingface")
    }
    rate, product = statistics.median(reads[1:]), statistics.median(products[1:])
    reading = weight_bytes(config, 32) / rate
    return [
        {
            "shape": "30x576",
            "threads": torch.get_num_threads(),
            "ours_tokens_per_second": 1 / per_token["ours"],
            "huggingface_tokens_per_second": 1 / per_token["huggingface"],
            "ratio": median_ratio(taken, "ours", "huggingface"),
            "read_bytes_per_second": rate,
            "bound_tokens_per_second": 1 / reading,
            "milliseconds_of_a_token": 1000 * per_token["ours"],
            "of_these_reading_the_weights": 1000 * reading,
            "of_these_all_else": 1000 * (per_token["ours"] - reading),
            "milliseconds_of_the_products_by_linear": 1000 * product,
        }
    ]


@torch.no_grad()
def _seconds_of_products(model: MobileLLM) -> float:
    """Seconds to multiply each matrix by one vector with `F.linear`."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = {size: torch.randn(1, size) for size in {matrix.shape[1] for matrix in matrices}}
    repeats = 5
    start = time.perf_counter()
    for _ in range(repeats):
        for matrix in matrices:
            F.linear(vectors[matrix.shape[1]], matrix)
    return (time.perf_counter() - start) / repeats


def _bytes_read_per_second() -> float:
    """Memory bandwidth of a sum over 512 MB, the fastest of four."""
    values = torch.ones(2**27)
    values.sum()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - start)
    return values.numel() * values.element_size() / min(seconds)
