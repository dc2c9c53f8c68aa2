"""What ranks agree on: one process, and the words for configurations that differ."""

import pytest

from mobilellm.training.ranks import (
    broadcast_from_first,
    check_same_configuration,
    describe_differences,
)
from mobilellm.training.trainer import TrainerConfig


def test_alone_there_is_nothing_to_agree_on():
    assert broadcast_from_first({"a": 1}) == {"a": 1}
    check_same_configuration({"seed": 1})


def test_differences_name_keys_values_and_ranks():
    configs = [{"seed": 0, "a.b": "x", "same": 1}, {"seed": 1, "a.b": "x", "same": 1},
               {"seed": 0, "same": 1}]  # fmt: skip
    message = describe_differences(configs)
    assert message.startswith("the 3 ranks of this run have different configurations: ")
    assert "a.b is 'x' on rank 0 and 1, 'not there' on rank 2; " in message
    assert "seed is 0 on rank 0 and 2, 1 on rank 1; start all ranks" in message
    assert "same" not in message.replace("same command", "")


def test_only_the_first_differences_are_listed():
    configs = [{f"k{n}": 0 for n in range(8)}, {f"k{n}": 1 for n in range(8)}]
    assert "k4 is 0 on rank 0, 1 on rank 1 and 3 more; start" in describe_differences(configs)


def test_devices_follow_from_torchrun(monkeypatch):
    started = {"RANK": "4", "LOCAL_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3",
               "MASTER_ADDR": "here", "MASTER_PORT": "1"}  # fmt: skip
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert TrainerConfig(accelerator="cpu", num_nodes=2).world_size == 6
    with pytest.raises(ValueError, match=r"devices=2 on .*=1 are 2 processes, and torchrun star"):
        assert TrainerConfig(accelerator="cpu", devices=2).world_size
