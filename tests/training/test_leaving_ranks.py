"""Ranks end in order: all are done, the process group and its threads end, then the processes."""

import gc
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import distributed

from mobilellm.training.ranks import broadcast_from_first, join_process_group, leave_process_group
from mobilellm.training.trainer import TrainerConfig

CONFIG = TrainerConfig(accelerator="cpu", devices=2, strategy="ddp", num_threads=1)


def group_threads() -> list[str]:
    """Names of this process's threads that serve a process group."""
    names = [
        path.read_text(encoding="utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")
    ]
    return [name for name in names if "gloo" in name]


def run(rank, port):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    # A second run of the same processes meets anew, through the same store.
    for value in ("first", "second"):
        join_process_group(CONFIG)
        assert broadcast_from_first(f"{value} {rank}") == f"{value} 0"
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
        model(torch.ones(1, 3)).sum().backward()
        # As Lightning's trainer and module: nothing but the garbage collector ends it.
        model.cycle = [model]
        del model
        assert group_threads()
        gc.disable()
        leave_process_group()
        gc.enable()
        assert not distributed.is_initialized()
        assert group_threads() == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named in /proc only")
def test_nothing_of_the_group_is_left_and_the_next_run_has_its_own():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run, (port,), nprocs=2)
