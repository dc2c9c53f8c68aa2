"""DDP and FSDP give the losses of one process for every kind of model, on any number of ranks."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from parallel_run import CASES, RESUMED, STEPS, make_teacher
from small_run import command, make_model, read_rows

from mobilellm.accounting import count_parameters
from mobilellm.training.sharding import check_stored_parameters

SCRIPT = Path(__file__).with_name("parallel_run.py")
STRATEGIES = ("ddp", "fsdp")
REDUCTIONS = {"ddp": "c10d::allreduce_", "fsdp": "c10d::_reduce_scatter_base_"}


def start(folder, teacher, strategy, devices, phase):
    arguments = map(str, (folder, teacher, strategy, devices, phase))
    done = subprocess.run(
        [*command(SCRIPT, devices), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    make_teacher(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, teacher):
    """Folder of the cases by strategy; `auto`: one process."""
    folder = tmp_path_factory.mktemp("parallel")
    devices = {"auto": 1, "ddp": 2, "fsdp": 2}
    return {name: start(folder / name, teacher, name, n, "all") for name, n in devices.items()}


@pytest.fixture(scope="module", params=STRATEGIES)
def stopped(request, tmp_path_factory, teacher):
    """A strategy, and the folder of its cases, stopped half-way on two ranks."""
    folder = tmp_path_factory.mktemp("stopped")
    return request.param, start(folder, teacher, request.param, 2, "stop")


def losses(folder):
    rows = read_rows(folder)
    return [(int(r["step"]), float(r["train/loss"] or 0), float(r["val/loss"] or 0)) for r in rows]


def assert_same_losses(first, second, case):
    tolerance = 1e-3 if case.startswith("muon") else 1e-5
    mine, others = losses(first / case), losses(second / case)
    assert [row[0] for row in mine] == [row[0] for row in others] == list(range(STEPS + 1))
    for a, b in zip(mine, others, strict=True):
        assert a == pytest.approx(b, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", [case for case in CASES if case != "bfloat16"])
def test_two_ranks_have_the_losses_of_one(runs, strategy, case):
    assert_same_losses(runs[strategy], runs["auto"], case)
    first, *_, last = (loss for _, loss, _ in losses(runs[strategy] / case)[1:])
    assert last < first


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mixed_precision(runs, strategy):
    mine, alone, exact = (
        losses(folder / case)
        for folder, case in (
            (runs[strategy], "bfloat16"), (runs["auto"], "bfloat16"), (runs["auto"], "shared")
        )
    )  # fmt: skip
    assert mine != exact
    for a, b, c in zip(mine, alone, exact, strict=True):
        assert a == pytest.approx(b, rel=5e-3)
        assert a == pytest.approx(c, rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulation_exchanges_gradients_once(runs, strategy):
    once, thrice = (
        json.loads((runs[strategy] / case / "collectives.json").read_text(encoding="utf-8"))[
            REDUCTIONS[strategy]
        ]
        for case in ("tied", "accumulated")
    )
    assert once == thrice > 0
    assert json.loads((runs["auto"] / "shared/collectives.json").read_text(encoding="utf-8")) == {}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 3])
def test_a_checkpoint_of_two_ranks_goes_on_on_others(runs, stopped, teacher, tmp_path, devices):
    strategy, folder = stopped
    shutil.copytree(folder, tmp_path / "again")
    assert [row[0] for row in losses(tmp_path / "again" / RESUMED[0])] == list(range(6))
    start(tmp_path / "again", teacher, "auto" if devices == 1 else strategy, devices, "resume")
    for case in RESUMED:
        assert_same_losses(tmp_path / "again", runs["auto"], case)


@pytest.mark.parametrize("changes", [{}, {"block_repeats": 2}, {"tie_word_embeddings": False}])
def test_weights_that_came_undone_are_noticed(changes):
    model = make_model(**changes)
    check_stored_parameters(model, "at the start")
    assert sum(p.numel() for p in model.parameters()) == count_parameters(model.config).stored
    model.register_parameter("copied", torch.nn.Parameter(model.embedding.weight.detach().clone()))
    with pytest.raises(RuntimeError, match=r"parameters after loading, its configuration stores"):
        check_stored_parameters(model, "after loading")
