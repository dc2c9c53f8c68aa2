"""How the processes of one run (its ranks) meet, what they agree on, and how they part."""

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

from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mobilellm.run_settings import flat_config
from mobilellm.training.places import misleading_variables
from mobilellm.training.trainer import TrainerConfig, make_trainer

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Differing keys that the error names.
SHOWN_KEYS = 5
# How long ranks wait for the others at the end: the first may have a large model to write.
LEAVE_SECONDS, POLL_SECONDS = 1800.0, 0.02

_RUNS = itertools.count()
_STORES: list[Store] = []


def join_ranks(config: TrainerConfig) -> None:
    """Make the process group that Lightning will use, so that ranks can talk before they train.

    `leave_ranks` ends it; the next run of the same processes then makes one of its own. A single
    process is the first and only one, whatever the environment says: a note names what it ignores.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if config.world_size == 1:
        # Lightning sets this from the environment when it is imported.
        rank_zero_only.rank = 0
        _note_ignored(misleading_variables(is_alone=True))
        return
    if distributed.is_initialized():
        return
    strategy: Any = make_trainer(replace(config, strategy="ddp")).strategy
    strategy.accelerator.setup_device(strategy.root_device)
    strategy.set_world_ranks()
    place, device = strategy.cluster_environment, strategy.root_device
    rank, size = place.global_rank(), place.world_size()
    # What an earlier group left in the store would mislead this one.
    store = PrefixStore(
        f"run{next(_RUNS)}", _open_store(place.main_address, place.main_port, rank, size)
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
        logger.warning(
            "%s: ignored, since this run is one process; it is complete by itself", variables
        )


@cache
def _open_store(address: str, port: int, rank: int, size: int) -> Store:
    """The store of all runs of this process, which the launcher or the first rank holds."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    return next(rendezvous("env://", rank, size))[0]


def leave_ranks() -> None:
    """Wait until all ranks are done, then end the process group with all its threads.

    A group that is left to the interpreter's end may abort there: its threads still want to touch
    Python objects. Called on all ranks.

    Raises:
        TimeoutError: another rank did not come.
    """
    if not distributed.is_initialized():
        return
    store, rank, ranks = _STORES.pop(), distributed.get_rank(), range(distributed.get_world_size())
    # Through the store: a collective would fail where the first to leave it closes its connections.
    store.set(f"done{rank}", "")
    _wait(store, [f"done{other}" for other in ranks])
    # The trainer and what wraps the model hold the group, in cycles.
    gc.collect()
    distributed.destroy_process_group()
    store.set(f"left{rank}", "")
    if rank == 0:
        # The store may be this process's.
        _wait(store, [f"left{other}" for other in ranks])


def _wait(store: Store, keys: list[str]) -> None:
    """Wait for the keys in a way that signals interrupt."""
    end = time.monotonic() + LEAVE_SECONDS
    while not store.check(keys):
        if time.monotonic() > end:
            raise TimeoutError(f"no other rank came within {LEAVE_SECONDS} s: {', '.join(keys)}")
        time.sleep(POLL_SECONDS)


def is_first_process() -> bool:
    """Whether this process is the one of several that writes files and speaks."""
    return num_ranks() == 1 or distributed.get_rank() == 0


def num_ranks() -> int:
    """Processes that have joined; 1 where there is no group."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def agreed(value: Any) -> Any:
    """Rank 0's value, on every rank; called on all of them."""
    if num_ranks() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def smallest_of_ranks(value: float) -> float:
    """The smallest of the ranks' values, on every rank; called on all of them."""
    return value if num_ranks() == 1 else min(_gather(value))


def first_does(action: Callable[[], T]) -> T:
    """Let rank 0 alone act; its result, or what it raised, on every rank."""
    outcome: Any = None
    if num_ranks() == 1:
        return action()
    if distributed.get_rank() == 0:
        try:
            outcome = (action(), None)
        except Exception as error:
            outcome = (None, error)
    result, error = agreed(outcome)
    if error is not None:
        raise error
    return result


def check_same_configuration(config: Mapping[str, Any]) -> None:
    """Refuse to train ranks with different configurations; called on all of them.

    A hash is exchanged; only where it differs the whole configurations are.

    Raises:
        ValueError: on every rank alike, with the ranks and the first differing keys.
    """
    if num_ranks() == 1:
        return
    text = json.dumps(flat_config(config), sort_keys=True, default=str)
    if len(set(_gather(hashlib.sha256(text.encode()).hexdigest()))) > 1:
        raise ValueError(describe_differences([json.loads(flat) for flat in _gather(text)]))


def describe_differences(configs: Sequence[Mapping[str, Any]]) -> str:
    """`the ranks … have different configurations: seed=0 on rank 0 and 2, seed=1 on rank 1; …`.

    Args:
        configs: flat configuration of each rank; they differ.
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
        f"{'; '.join(parts[:SHOWN_KEYS])}{more}; start all ranks with one and the same command "
        "(tasks of srun that are to be runs of their own need trainer.devices=1)"
    )


def _gather(value: T) -> list[T]:
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
