"""Measures two processes, compared with one: tokens per second, and the share of communication.

The processes run on this machine, with one thread each and gloo. `accounting/scaling.py` forecasts
both quantities from the times that a single process, the optimizer and an all-reduce take alone in
the same rounds. The forecast does not overlap communication with computation, since the same cores
do both. All times are measured as wall time and as processor time. Processor time hardly depends on
other work on the machine, and equals wall time if each process has a core of its own.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.accounting.cluster import Cluster
from mobilellm.accounting.scaling import (
    BUCKET_BYTES,
    StepForecast,
    forecast_step,
    update_bytes,
)
from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.models import MobileLLM
from scripts.benchmarks.peers import random_tokens
from scripts.benchmarks.rounds import alternate, median_ratio
from scripts.benchmarks.shapes import Workload, demo_workloads, large_workload, middle_workload

NUM_RANKS = 2
SMALL_REDUCTIONS = 50
Seconds = Mapping[str, list[float]]


def measure_scaling(*, rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Measure shapes with little to much communication per token, four rows per shape."""
    shapes = [
        demo_workloads()[2],
        middle_workload(batch=2),
        replace(large_workload(), batch=2, sequence_length=64),
    ]
    if quick:
        shapes = [replace(shapes[0], sequence_length=64)]
    return [row for shape in shapes for row in compare_processes(shape, rounds=rounds)]


def compare_processes(workload: Workload, *, rounds: int) -> list[dict[str, Any]]:
    """Measure weak scaling (a whole batch per process) and strong scaling (half a batch each)."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (folder, workload, rounds), nprocs=NUM_RANKS)  # pyright: ignore[reportPrivateImportUsage]
        clocks = json.loads((Path(folder) / "seconds.json").read_text(encoding="utf-8"))
    return [
        {"shape": workload.name, "scaling": kind, "clock": clock} | _row(workload, seconds, kind)
        for kind in ("weak", "strong")
        for clock, seconds in clocks.items()
    ]


def measured_cluster(workload: Workload, seconds: Seconds) -> Cluster:
    """Describe this machine for the scaling model, from the times measured for each part alone."""
    one, update, large, small = (
        statistics.median(seconds[name]) for name in ("one", "update", "large", "small")
    )
    flops = flops_per_token(workload.config, workload.sequence_length).training
    hop = small / SMALL_REDUCTIONS / 2
    return Cluster(
        flops_per_second=workload.tokens * flops / (one - update),
        memory_bytes_per_second=update_bytes(workload.config) / update,
        gpus_per_node=NUM_RANKS,
        node_bytes_per_second=BUCKET_BYTES / (large - 2 * hop),
        node_latency_seconds=hop,
        overlap=0.0,
    )


def _row(workload: Workload, seconds: Seconds, kind: str) -> dict[str, Any]:
    share = workload.batch // (NUM_RANKS if kind == "strong" else 1)
    cluster = measured_cluster(workload, seconds)
    step = partial(
        forecast_step,
        workload.config,
        sequences_per_gpu=share,
        sequence_length=workload.sequence_length,
        precision="32-true",
        cluster=cluster,
    )
    forecast: StepForecast = step(NUM_RANKS)
    took, apart = (statistics.median(seconds[f"{kind}{end}"]) for end in ("", "_apart"))
    tokens = NUM_RANKS * share * workload.sequence_length
    return {
        "parameters": count_parameters(workload.config).stored,
        "tokens_per_step": tokens,
        "one_tokens_per_second": workload.tokens / statistics.median(seconds["one"]),
        "two_tokens_per_second": tokens / took,
        "speedup": tokens / workload.tokens * median_ratio(seconds, kind, "one"),
        "speedup_apart": tokens / workload.tokens * median_ratio(seconds, f"{kind}_apart", "one"),
        "communication_share": 1 - 1 / median_ratio(seconds, f"{kind}_apart", kind),
        "all_reduce_bytes_per_second": cluster.node_bytes_per_second,
        "forecast_communication_share": forecast.exposed_share,
        "forecast_over_measured": forecast.step_seconds / took,
        "forecast_over_measured_both_busy": (apart + forecast.exposed_seconds) / took,
    }


def _rank(rank: int, folder: str, workload: Workload, rounds: int) -> None:
    """Run one of the processes; the first one writes the times."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS
    )
    step, halved = _Step(workload), replace(workload, batch=workload.batch // NUM_RANKS)
    large = torch.zeros(BUCKET_BYTES // 4)
    small = torch.zeros(1)

    def alone(work: Any) -> None:
        if rank == 0:
            work()

    def reduce_small() -> None:
        for _ in range(SMALL_REDUCTIONS):
            dist.all_reduce(small)

    contestants = {
        "one": partial(alone, partial(step, workload.batch, synchronized=False)),
        "weak": partial(step, workload.batch),
        "weak_apart": partial(step, workload.batch, synchronized=False),
        "strong": partial(step, halved.batch),
        "strong_apart": partial(step, halved.batch, synchronized=False),
        "update": partial(alone, step.optimizer.step),
        "large": partial(dist.all_reduce, large),
        "small": reduce_small,
    }
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    together = {k: partial(_together, work, spent[k]) for k, work in contestants.items()}
    wall = alternate(together, rounds=rounds)
    if rank == 0:
        clocks = {"wall": wall, "processor": {k: each[1:] for k, each in spent.items()}}
        (Path(folder) / "seconds.json").write_text(
            json.dumps(clocks, allow_nan=False), encoding="utf-8"
        )
    # The wrapper of the model refers to the group, in reference cycles; a group that outlives the
    # interpreter may abort the process.
    del step, contestants, together
    gc.collect()
    dist.destroy_process_group()


def _together(work: Any, spent: list[float]) -> None:
    """Run `work` and wait for all ranks; append the processor time of `work` to `spent`."""
    start = time.process_time()
    work()
    spent.append(time.process_time() - start)
    dist.barrier()


class _Step:
    """A training step with DDP, or, if it is not synchronised, of a single process."""

    def __init__(self, workload: Workload) -> None:
        model = MobileLLM(workload.config)
        self.unembed = model.unembed
        self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.tokens = random_tokens(workload)

    def __call__(self, batch: int, *, synchronized: bool = True) -> None:
        tokens = self.tokens[:batch]
        self.optimizer.zero_grad()
        with nullcontext() if synchronized else self.model.no_sync():
            hidden = self.model(tokens[:, :-1], logits=False).hidden
            total = chunked_cross_entropy(hidden, self.unembed, tokens[:, 1:])
            (total / tokens[:, 1:].numel()).backward()
        self.optimizer.step()
