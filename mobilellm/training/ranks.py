"""What the processes of one run (its ranks) agree on before and while they train."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import distributed

from mobilellm.run_folder import flat_config
from mobilellm.training.trainer import TrainerConfig, make_trainer

T = TypeVar("T")

# Differing keys that the error names.
SHOWN_KEYS = 5


def join_ranks(config: TrainerConfig) -> None:
    """Make the process group that Lightning will use, so that ranks can talk before they train."""
    if config.world_size > 1 and not distributed.is_initialized():
        make_trainer(replace(config, strategy="ddp")).strategy.setup_environment()


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
        f"{'; '.join(parts[:SHOWN_KEYS])}{more}; start all ranks with one and the same command"
    )


def _gather(value: str) -> list[str]:
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
