"""What the run asks for decides which process is which; the environment has to agree."""

import pytest

from mobilellm.training.process_rank import (
    ProcessRank,
    find_process_rank,
    ignored_rank_variables,
    launched_process_rank,
)
from mobilellm.training.trainer import TrainerConfig, make_trainer

ALONE = ProcessRank()
TORCHRUN = {
    "RANK": "5", "LOCAL_RANK": "2", "GROUP_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3",
    "MASTER_ADDR": "here", "MASTER_PORT": "1",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NTASKS": "4",
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2",
}  # fmt: skip
# A batch script that asked for two tasks, and is none of them.
BATCH = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (TORCHRUN, ProcessRank(rank=5, local_rank=2, node=1, world_size=6, local_world_size=3,
                         launcher="torchrun")),
        (SRUN, ProcessRank(rank=3, local_rank=1, node=1, world_size=4, local_world_size=2,
                     launcher="srun")),
        # torchrun, or a process that starts its own ranks, inside of a step.
        ({**SRUN, **TORCHRUN}, ProcessRank(rank=5, local_rank=2, node=1, world_size=6,
                                     local_world_size=3, launcher="torchrun")),
        # Lightning starts further processes so.
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here",
          "MASTER_PORT": "1"}, ProcessRank(rank=1, local_rank=1, world_size=2, local_world_size=2,
                                     launcher="torchrun")),
        ({}, None), (BATCH, None), ({"RANK": "1"}, None), ({"LOCAL_RANK": "0"}, None),
        ({**TORCHRUN, "RANK": "6"}, None), ({**TORCHRUN, "RANK": "first"}, None),
    ],
)  # fmt: skip
def test_only_a_whole_description_comes_from_a_launcher(environment, place):
    assert launched_process_rank(environment) == place


@pytest.mark.parametrize("environment", [
    {}, BATCH, {"SLURM_PROCID": "3"}, {"RANK": "1"}, {"LOCAL_RANK": "1"}, {"SLURM_NTASKS": "4"},
    {"WORLD_SIZE": "2", "RANK": "x"}, SRUN,
])  # fmt: skip
def test_one_device_is_one_whole_run(environment):
    assert find_process_rank(1, 1, 4, environment) == ALONE
    if environment is not SRUN:
        assert find_process_rank("auto", 1, 1, environment) == ALONE


def test_started_processes_are_the_ranks():
    assert find_process_rank("auto", 2, 1, TORCHRUN) == find_process_rank(3, 2, 1, TORCHRUN)
    assert find_process_rank("auto", 2, 1, SRUN).rank == 3
    assert find_process_rank("auto", 1, 1, {**SRUN, "SLURM_STEP_NUM_NODES": "1"}).world_size == 4
    # One task is no rank: it starts its own.
    single = {
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1",
        "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1",
    }  # fmt: skip
    assert launched_process_rank(single).world_size == 1
    assert find_process_rank(2, 1, 1, single) == ProcessRank(world_size=2, local_world_size=2)


@pytest.mark.parametrize(("devices", "nodes", "environment", "message"), [
    (2, 1, {"SLURM_NTASKS": "2"}, r"SLURM_NTASKS=2 in the environment, but neither torchrun nor s"),
    (2, 1, {"SLURM_NTASKS": "4"}, r"of the 2 processes of trainer.devices=2 and trainer.num_node"),
    (2, 1, {"LOCAL_RANK": "0"}, r"LOCAL_RANK=0 in .* unset the variables .* \(env -u LOCAL_RANK …"),
    (2, 1, {"RANK": "1", "WORLD_SIZE": "2"}, r"RANK=1, WORLD_SIZE=2 in the environment"),
    (2, 1, TORCHRUN, r"devices=2 on .*_nodes=1 are 2 processes, and torchrun started 6, 3"),
    (1, 1, TORCHRUN, r"devices=1 on .* are 1 processes, and torchrun started 6"),
    (6, 1, TORCHRUN, r"devices=6 on .* are 6 processes, and torchrun started 6, 3 on this node"),
    (3, 1, SRUN, r"are 3 processes, and srun started 4, 2 on this node; give trainer.devices=auto"),
    ("auto", 1, SRUN, r"are 2 processes, and srun started 4, 2 on this node"),
])  # fmt: skip
def test_what_contradicts_the_run_is_refused(devices, nodes, environment, message):
    with pytest.raises(ValueError, match=message):
        find_process_rank(devices, nodes, 1, environment)


def test_the_note_names_only_what_says_that_there_are_others():
    single = {"RANK": "0", "WORLD_SIZE": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    assert ignored_rank_variables(single, is_alone=True) == ""
    assert ignored_rank_variables(single) == "RANK=0, WORLD_SIZE=1"
    found = ignored_rank_variables(SRUN, is_alone=True)
    assert found == "SLURM_PROCID=3, SLURM_LOCALID=1, SLURM_NTASKS=4"


@pytest.mark.parametrize("variables", [BATCH, {"LOCAL_RANK": "1"}, {"RANK": "1"}, SRUN])
def test_lightning_goes_by_the_place_too(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trainer = make_trainer(TrainerConfig(accelerator="cpu", devices=1))
    assert (trainer.global_rank, trainer.world_size, trainer.is_global_zero) == (0, 1, True)
