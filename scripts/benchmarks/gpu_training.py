"""Training steps and decoding on a GPU: rates, memory and forecasts, one contestant at a time.

The contestants are not in memory together, so that the peak memory is that of one of them.
"""

import gc
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mobilellm.accounting import count_parameters, flops_per_token, training_memory_bytes
from mobilellm.accounting.explain import ASSUMED_RATES
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.models.generation import generate
from mobilellm.optim import muon
from mobilellm.pipeline.memory import free_memory_bytes, peak_memory_bytes, reset_peak_memory
from mobilellm.training.compilation import compile_blocks_
from mobilellm.training.device_rate import matmul_rate
from mobilellm.training.float8 import use_float8_
from scripts.benchmarks.peer_models import huggingface_llama, llama_shape
from scripts.benchmarks.peers import (
    GraphedStep,
    HuggingFaceStep,
    LitGPTStep,
    OurStep,
    has_litgpt,
)
from scripts.benchmarks.shapes import Workload

if TYPE_CHECKING:
    from scripts.benchmarks.gpu import Bench

Rows = list[dict[str, Any]]
WARM_UP_STEPS = 3
DOCUMENT_TOKENS = 300
NEW_TOKENS = {"cuda": 256, "cpu": 4}


def measure_training(bench: "Bench", name: str, config: ModelConfig) -> Rows:
    """Compare this project with Hugging Face's Llama and LitGPT, under the same compilation."""
    workload = workload_of(bench, name, config)
    rate = matmul_rate(torch.device(bench.device), torch.bfloat16)
    flops = flops_per_token(config, bench.sequence_length).training
    memory = training_memory_bytes(
        config, workload.batch, bench.sequence_length, accelerator=bench.device,
        precision="bf16-mixed",
    )  # fmt: skip
    row: dict[str, Any] = {
        "shape": name,
        "parameters": count_parameters(config).stored,
        "batch": workload.batch,
        "sequence_length": bench.sequence_length,
        "matmul_flops_per_second": rate,
        "forecast_tokens_per_second": ASSUMED_RATES[bench.device][0] / flops,
        "forecast_bytes": memory.total,
    }
    for contestant, make in _contestants(bench, workload).items():
        try:
            speed, peak = _measure_steps(bench, make, workload.tokens)
        except torch.OutOfMemoryError:
            row[contestant] = "out of memory"
            continue
        row[f"{contestant}_tokens_per_second"] = speed
        row[f"{contestant}_share_of_matmul_rate"] = speed * flops / rate
        if peak is not None:
            row[f"{contestant}_peak_bytes"] = peak
    return [row]


def measure_float8(bench: "Bench", name: str, config: ModelConfig) -> Rows:
    """Training steps whose blocks multiply in float8, compared with bfloat16."""
    workload = workload_of(bench, name, config)
    speeds = {
        key: _measure_steps(
            bench, lambda on=on: _our_step(bench, workload, float8=on), workload.tokens
        )
        for key, on in (("bfloat16", False), ("float8", True))
    }
    return [
        {"shape": name, "number_type": key, "tokens_per_second": speed, "peak_bytes": peak,
         "ratio": speed / speeds["bfloat16"][0]}
        for key, (speed, peak) in speeds.items()
    ]  # fmt: skip


def measure_cuda_graph(bench: "Bench", shapes: dict[str, tuple[ModelConfig, int, int]]) -> Rows:
    """Training steps whose passes are launched kernel by kernel, or as one CUDA graph.

    Args:
        bench: how they are measured.
        shapes: name -> model, windows per step, and tokens per window.
    """
    rows = []
    for name, (config, batch, length) in shapes.items():
        workload = Workload(name, config, batch, length)
        apart = _measure_steps(bench, lambda w=workload: _our_step(bench, w), workload.tokens)
        row = {"shape": name, "batch": batch, "sequence_length": length,
               "tokens_per_second": apart[0], "peak_bytes": apart[1]}  # fmt: skip
        if bench.device == "cuda":
            try:
                speed, peak = _measure_steps(
                    bench, lambda w=workload: _our_step(bench, w, graphed=True), workload.tokens
                )
                row |= {"graph_tokens_per_second": speed, "graph_peak_bytes": peak,
                        "ratio": speed / apart[0]}  # fmt: skip
            except RuntimeError as error:
                row["graph"] = f"{error}".splitlines()[0][:150]
        rows.append(row)
    return rows


def measure_documents(bench: "Bench", config: ModelConfig) -> Rows:
    """Training steps with and without masks between documents."""
    workload = workload_of(bench, "documents", config)
    return [
        {"document_mask": on, "tokens_per_second": speed, "peak_bytes": peak}
        for on in (False, True)
        for speed, peak in [
            _measure_steps(bench, lambda on=on: _our_step(bench, workload, on), workload.tokens)
        ]
    ]


def measure_muon_share(bench: "Bench", config: ModelConfig) -> Rows:
    """The time of Muon's step alone, and its share of a whole training step."""
    workload = workload_of(bench, "muon", config)
    step = _our_step(bench, workload)
    step.optimizer = muon(step.model, learning_rate=1e-4)  # pyright: ignore[reportAttributeAccessIssue]
    whole = _seconds(bench, step)
    for parameter in step.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    alone = _seconds(bench, step.optimizer.step)
    return [
        {"step_milliseconds": 1000 * whole, "muon_milliseconds": 1000 * alone,
         "share": alone / whole}
    ]  # fmt: skip


def measure_decoding(bench: "Bench", config: ModelConfig) -> Rows:
    """Tokens per second of greedy generation in bfloat16, for one prompt."""
    new = NEW_TOKENS[bench.device]
    prompt = torch.randint(3, config.vocab_size, (1, 8), device=bench.device)
    ours = MobileLLM(config).to(bench.device, torch.bfloat16).eval()
    theirs = huggingface_llama(llama_shape(config)).to(bench.device, torch.bfloat16).eval()

    @torch.no_grad()
    def run_theirs() -> None:
        theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, min_new_tokens=new,
            do_sample=False, use_cache=True, pad_token_id=0,
        )  # fmt: skip

    def run_ours() -> None:
        generate(ours, prompt, max_new_tokens=new, stop_at_eos=False)

    seconds = {"ours": _seconds(bench, run_ours), "huggingface": _seconds(bench, run_theirs)}
    speeds = {f"{name}_tokens_per_second": new / taken for name, taken in seconds.items()}
    return [{**speeds, "ratio": seconds["huggingface"] / seconds["ours"]}]


def workload_of(bench: "Bench", name: str, config: ModelConfig) -> Workload:
    """The largest batch, halved from `most_windows`, whose forecast is 60 % of the free memory."""
    batch = bench.most_windows
    while batch > 1 and training_memory_bytes(
        config, batch, bench.sequence_length, accelerator=bench.device, precision="bf16-mixed"
    ).total > 0.6 * free_memory_bytes(bench.device):
        batch //= 2
    return Workload(name, config, batch, bench.sequence_length)


def _contestants(bench: "Bench", workload: Workload) -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {"ours": lambda: _our_step(bench, workload)}
    # The other projects do not share blocks.
    if workload.config.num_layers == workload.config.num_blocks:
        made["huggingface"] = lambda: _their_step(bench, workload)
        if has_litgpt():
            made["litgpt"] = lambda: LitGPTStep(workload, bench.device, compiles=bench.compiles)
    return made


def _our_step(
    bench: "Bench",
    workload: Workload,
    document_mask: bool = False,
    *,
    float8: bool = False,
    graphed: bool = False,
) -> OurStep:
    step = (GraphedStep if graphed else OurStep)(workload, bench.device)
    if float8:
        use_float8_(step.model, emulate=bench.device == "cpu")
    if document_mask:
        ids = torch.arange(bench.sequence_length, device=bench.device) // DOCUMENT_TOKENS
        documents = ids.expand(workload.batch, -1).contiguous()
        step.mask = lambda: attention_mask_of({"document_ids": documents})
    if bench.compiles:
        compile_blocks_(step.model)
    return step


def _their_step(bench: "Bench", workload: Workload, *, whole: bool = False) -> HuggingFaceStep:
    """Hugging Face's step; compiled layer by layer as ours, or the whole model with its loss."""
    step = HuggingFaceStep(workload, bench.device)
    if bench.compiles:
        torch._dynamo.reset()
        for part in [step.model] if whole else step.model.model.layers:
            part.compile()
    return step


def measure_whole_compilation(bench: "Bench", name: str, config: ModelConfig) -> Rows:
    """Hugging Face's model compiled as a whole, with its loss: minutes of compilation."""
    workload = workload_of(bench, name, config)
    speed, peak = _measure_steps(
        bench, lambda: _their_step(bench, workload, whole=True), workload.tokens
    )
    return [
        {"shape": name, "huggingface_whole_tokens_per_second": speed, "peak_bytes": peak}
    ]  # fmt: skip


def _measure_steps(
    bench: "Bench", make: Callable[[], Any], tokens: int
) -> tuple[float, int | None]:
    """Tokens per second and peak bytes; None for a peer in a process of its own."""
    _free_memory(bench.device)
    reset_peak_memory(bench.device)
    step = make()
    try:
        speed = tokens / _seconds(bench, step)
        is_apart = isinstance(step, LitGPTStep)
        return speed, None if is_apart else peak_memory_bytes(bench.device)
    finally:
        if isinstance(step, LitGPTStep):
            step.close()
        del step
        _free_memory(bench.device)


def _seconds(bench: "Bench", step: Callable[[], Any]) -> float:
    """Median seconds of one call, over rounds of `bench.steps` calls, after a warm-up."""

    def repeat(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            with torch.autocast(bench.device, torch.bfloat16):
                step()
        if bench.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    repeat(WARM_UP_STEPS)
    return statistics.median(repeat(bench.steps) for _ in range(bench.rounds))


def _free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
