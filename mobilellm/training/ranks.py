"""The process group of a run: create it, exchange values between ranks, and destroy it."""

import gc
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mobilellm.run_settings import flat_config
from mobilellm.training.process_rank import ignored_rank_variables
from mobilellm.training.trainer import TrainerConfig, make_trainer

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Number of differing keys in the error message.
SHOWN_KEYS = 5
# How long ranks wait for each other at the end: the first one may have to save a large model.
LEAVE_SECONDS, POLL_SECONDS = 1800.0, 0.02

_RUNS = itertools.count()
_STORES: list[Store] = []
_HOST_GROUPS: list[Any] = []


def join_process_group(config: TrainerConfig) -> None:
    """Create the process group that Lightning will use, so that ranks can communicate before.

    `leave_process_group` destroys it; the next run in the same processes then creates its own. A
    single process is rank 0 of 1, whatever the environment variables say; those that are ignored
    are logged.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if config.world_size == 1:
        # Lightning sets this from the environment when it is imported.
        rank_zero_only.rank = 0
        _note_ignored(ignored_rank_variables(is_alone=True))
        return
    if distributed.is_initialized():
        return
    strategy: Any = make_trainer(replace(config, strategy="ddp")).strategy
    strategy.accelerator.setup_device(strategy.root_device)
    strategy.set_world_ranks()
    cluster, device = strategy.cluster_environment, strategy.root_device
    rank, size = cluster.global_rank(), cluster.world_size()
    # Each group has its own prefix, so that it cannot see the keys of an earlier group.
    store = PrefixStore(
        f"run{next(_RUNS)}", _open_store(cluster.main_address, cluster.main_port, rank, size)
    )
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        device_id=device if device.type == "cuda" else None,
    )
    _STORES.append(store)


def _note_ignored(variables: str) -> None:
    if variables:
        logger.warning("%s: ignored, because this run is one process", variables)


@cache
def _open_store(address: str, port: int, rank: int, size: int) -> Store:
    """Open the TCP store for all runs of this process; the launcher or rank 0 hosts it."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    return next(rendezvous("env://", rank, size))[0]


def leave_process_group() -> None:
    """Wait until all ranks are done, then destroy the process group with all its threads.

    If the group still exists when the interpreter ends, the process may abort, because the threads
    of the group still access Python objects. It must be called on all ranks.

    Raises:
        TimeoutError: another rank did not call it in time.
    """
    if not distributed.is_initialized():
        return
    store, rank, ranks = _STORES.pop(), distributed.get_rank(), range(distributed.get_world_size())
    # Not with a collective: it fails if a rank that has left closes its connections.
    store.set(f"done{rank}", "")
    _wait(store, [f"done{other}" for other in ranks])
    # Reference cycles of the trainer and the wrapper of the model keep the group alive.
    _HOST_GROUPS.clear()
    gc.collect()
    distributed.destroy_process_group()
    store.set(f"left{rank}", "")
    if rank == 0:
        # The store may be hosted by this process.
        _wait(store, [f"left{other}" for other in ranks])


def _wait(store: Store, keys: list[str]) -> None:
    """Wait for the keys by polling, which signals can interrupt."""
    end = time.monotonic() + LEAVE_SECONDS
    while not store.check(keys):
        if time.monotonic() > end:
            raise TimeoutError(
                f"not all ranks have set {', '.join(keys)} within {LEAVE_SECONDS} s; look for an "
                "error in the output of the other ranks"
            )
        time.sleep(POLL_SECONDS)


def is_first_process() -> bool:
    """Whether this process is rank 0, which writes files and logs, or the only process."""
    return num_ranks() == 1 or distributed.get_rank() == 0


def num_ranks() -> int:
    """Number of processes in the group; 1 if there is no group."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def broadcast_from_first(value: Any) -> Any:
    """Return the value of rank 0 on every rank; must be called on all ranks."""
    if num_ranks() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def host_group() -> Any:
    """The group in which ranks exchange numbers of the host; None: the group of all ranks.

    Numbers that are sent through GPUs have to be read back, which waits for all work of the GPU.
    It must be called on all ranks.
    """
    if distributed.get_backend() == "gloo":
        return None
    if not _HOST_GROUPS:
        _HOST_GROUPS.append(distributed.new_group(backend="gloo"))
    return _HOST_GROUPS[0]


def sum_over_ranks(value: Tensor, device: torch.device) -> Tensor:
    """Sum a tensor over all ranks; it remains on its device, and the host waits for no GPU.

    It must be called on all ranks.

    Args:
        value: of any shape, on `device` or on the CPU.
        device: through which the ranks communicate.
    """
    if num_ranks() == 1:
        return value
    is_on_host = value.is_cpu and device.type != "cpu"
    summed = value.clone()
    distributed.all_reduce(summed, group=host_group() if is_on_host else None)
    return summed


def max_over_ranks(value: int) -> int:
    """Return the largest number of all ranks on every rank, without waiting for a GPU.

    It must be called on all ranks.
    """
    if num_ranks() == 1:
        return value
    largest = torch.tensor(value)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX, group=host_group())
    return int(largest)


def flag_of_first(flag: bool) -> bool:
    """Return the flag of rank 0 on every rank, without waiting for a GPU.

    It must be called on all ranks.
    """
    if num_ranks() == 1:
        return flag
    shared = torch.tensor(int(flag))
    distributed.broadcast(shared, src=0, group=host_group())
    return bool(shared)


def min_over_ranks(value: float) -> float:
    """Return the smallest value of all ranks on every rank; must be called on all ranks."""
    return value if num_ranks() == 1 else min(_gather(value))


def run_on_first_rank(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 only; every rank returns its result or raises its error.

    It must be called on all ranks.
    """
    outcome: Any = None
    if num_ranks() == 1:
        return action()
    if distributed.get_rank() == 0:
        try:
            outcome = (action(), None)
        except Exception as error:
            outcome = (None, error)
    result, error = broadcast_from_first(outcome)
    if error is not None:
        raise error
    return result


def check_same_configuration(config: Mapping[str, Any]) -> None:
    """Check that all ranks have the same configuration; must be called on all ranks.

    The ranks exchange a hash, and whole configurations only if the hashes differ.

    Raises:
        ValueError: the configurations differ; every rank raises it, and the message has the first
            differing keys with their values.
    """
    if num_ranks() == 1:
        return
    text = json.dumps(flat_config(config), sort_keys=True, default=str)
    if len(set(_gather(hashlib.sha256(text.encode()).hexdigest()))) > 1:
        raise ValueError(describe_differences([json.loads(flat) for flat in _gather(text)]))


def describe_differences(configs: Sequence[Mapping[str, Any]]) -> str:
    """Describe the first differences, such as `seed is 0 on rank 0 and 2, 1 on rank 1`.

    Args:
        configs: flat configuration of each rank, at least two of which differ.
    """
    missing = "not there"
    keys = sorted({key for config in configs for key in config})
    parts = []
    for key in keys:
        ranks_of: dict[str, list[str]] = {}
        for rank, config in enumerate(configs):
            ranks_of.setdefault(repr(config.get(key, missing)), []).append(str(rank))
        if len(ranks_of) > 1:
            values = (f"{v} on rank {' and '.join(r)}" for v, r in ranks_of.items())
            parts.append(f"{key} is {', '.join(values)}")
    more = f" and {len(parts) - SHOWN_KEYS} more" if len(parts) > SHOWN_KEYS else ""
    return (
        f"the {len(configs)} ranks of this run have different configurations: "
        f"{'; '.join(parts[:SHOWN_KEYS])}{more}; start all ranks with the same command "
        "(if each task of srun is to be a separate run, use trainer.devices=1)"
    )


def _gather(value: T) -> list[T]:
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
