"""Runs with moments of 8 bits."""

import pytest
from killed_runs import assert_same, has_step, start, the_folder, wait_for


@pytest.mark.slow  # It compiles an update in three processes.
def test_a_killed_run_goes_on_bit_for_bit(tiny_overrides, tmp_path):
    given = [
        *tiny_overrides, "optimizer=adamw8bit", "model.hidden_size=64",
        "model.intermediate_size=128", "max_tokens=2560", "log_interval_steps=1",
        "callbacks.checkpoint.every_steps=4",
    ]  # fmt: skip
    assert start(*given, "experiment_name=alone").wait(timeout=240) == 0
    process = start(*given, "experiment_name=killed", "resume=true")
    wait_for(process, lambda: has_step(tmp_path / "outputs/killed", 9))
    process.kill()
    process.wait()
    assert start(*given, "experiment_name=killed", "resume=true").wait(timeout=240) == 0
    assert_same(the_folder(tmp_path / "outputs/killed"), the_folder(tmp_path / "outputs/alone"))


def test_sharded_moments_are_refused(tiny_run):
    with pytest.raises(ValueError, match="adamw8bit cannot be combined with trainer=fsdp"):
        tiny_run("optimizer=adamw8bit", "trainer=fsdp", "trainer.accelerator=cpu")
