"""The student learns the same from its teacher on two processes as on one, whatever the loss."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from distilled_run import CASES, LOSSES, make_teacher
from small_run import command

pytestmark = pytest.mark.slow  # It trains in one and in two processes.

SCRIPT = Path(__file__).with_name("distilled_run.py")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    make_teacher(folder / "teacher")
    found = []
    for devices in (1, 2):
        file = folder / f"{devices}.pt"
        done = subprocess.run(
            [*command(SCRIPT, devices), str(file), str(folder / "teacher"), str(devices)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(file))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradients_of_one(gradients, case):
    one, two = (found[case] for found in gradients)
    assert one.keys() == two.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", LOSSES)
def test_every_loss_changes_the_gradient(gradients, case):
    one, everything = gradients[0][case], gradients[0]["all"]
    others = [found for name, found in gradients[0].items() if name not in (case, "all")]
    name = "model.blocks.0.feed_forward.up_proj.weight"
    if case == "embedding":
        name = "model.embedding.weight"
    assert all(not torch.equal(one[name], found[name]) for found in [*others, everything])


def test_projections_are_trained_and_are_no_part_of_the_model(gradients):
    found = gradients[1]["hidden_state_mse"]
    mine = [name for name in found if name.startswith("auxiliary.hidden_state_mse.")]
    assert len(mine) == 4, "one for each application of the student's blocks"
    assert all(found[name].abs().max() > 0 for name in mine)
