"""Keys of version 0.1 are refused with the key that replaces them."""

import subprocess
import sys
from pathlib import Path

import pytest

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.configuration import compose
from mobilellm.hydra_app.old_keys import new_override, refuse_old_nodes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("compression.compression.recipe.budget.ratio=0.3", "compression.budget.ratio=0.3"),
        ("compression.compression.num_stages=1,2,3", "compression.num_stages=1,2,3"),
        ("+compression.compression.first_start=0.1", "+compression.first_start=0.1"),
        ("++compression.compression.recipe.fit=weights", "++compression.fit=weights"),
        ("~compression.compression.groups", "~compression.groups"),
        ("compression.recipe.layers=[a,b]", "compression.layers=[a,b]"),
        ("compression.compression=null", "compression=none"),
        ("~compression.compression", "compression=none"),
        ("distillation.distillation.teacher=runs/a=b", "distillation.teacher=runs/a=b"),
        ("+distillation.distillation.losses.forward_kl.weight=1",
         "+distillation.losses.forward_kl.weight=1"),
        ("distillation.step_by_step.rationale_weight=0.5", "distillation.rationale_weight=0.5"),
        ("compression.num_stages=3", None),
        ("distillation.losses.distillation.weight=1", None),
        ("compression=low_rank", None),
    ],
)  # fmt: skip
def test_the_new_key_of_an_old_one(old, new):
    assert new_override(old) == new


@pytest.mark.parametrize("command", ["train", "compress"])
def test_composing_refuses_an_old_key(command):
    old = "compression.compression.recipe.budget.ratio"
    with pytest.raises(CommandError, match=f"{old} is a key .*write compression.budget.ratio=0.3"):
        compose(command, ["compression=low_rank", f"{old}=0.3"])


def test_a_sweep_over_an_old_key_is_refused_before_its_first_trial(tmp_path):
    command = [sys.executable, "scripts/train.py", "-m", "compression=low_rank", "trainer=cpu",
               f"output_dir={tmp_path}", "compression.compression.num_stages=1,2"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 2
    assert "write compression.num_stages=1,2" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"compression": {"compression": {"num_stages": 2}}}, "sets compression.compression"),
        ({"compression": {"_target_": "x.Y", "recipe": {"fit": "weights"}}},
         "sets compression.recipe"),
        ({"distillation": {"distillation": {"teacher": "a"}}}, "sets distillation.distillation"),
        ({"distillation": {"step_by_step": {}}}, "sets distillation.step_by_step"),
    ],
)  # fmt: skip
def test_an_old_key_in_a_yaml_file_is_refused(config, message):
    with pytest.raises(CommandError, match=message):
        refuse_old_nodes(config)
