"""A run keeps the numbers that the recipe rule chose when it began."""

import json
import logging

import pytest
from made_up_rule import AUTO, RATE, STEP, folders, logged
from omegaconf import OmegaConf

from mobilellm.cli.command import Stopped

pytestmark = pytest.mark.usefixtures("made_up_rule")
STOP = ["+callbacks.stop._target_=stopping.StopAt", "+callbacks.stop.step=8"]


def test_a_run_that_is_resumed_keeps_its_numbers(command, later_rule, tmp_path, caplog):
    with pytest.raises(Stopped):
        command(*AUTO, *STOP)
    [folder] = folders(tmp_path)
    later_rule()
    with caplog.at_level(logging.INFO):
        summary = command(*AUTO, "resume=true")
    assert folders(tmp_path) == [folder]
    assert (summary["status"], summary["steps"], summary["learning_rate"]) == (
        "finished", 32, 0.0141
    )  # fmt: skip
    assert summary["chosen_by_rule"] == {STEP: 128, RATE: 0.0141}
    said = logged(caplog)
    assert "optimizer.learning_rate=0.0141 for this run when it began; it keeps them" in said
    # Another seed has not begun, and neither has a run with another rate.
    assert command(*AUTO, "seed=1", "max_steps=1")["learning_rate"] != 0.0141
    with pytest.raises(ValueError, match="is a finished run and is never overwritten"):
        command(*AUTO)


def test_a_trial_that_is_finished_is_not_trained_again(tiny_run, later_rule, planned):
    """A sweep finds it, although the rule would choose other numbers now."""
    tiny_run(*AUTO)
    later_rule()
    assert planned().is_finished()
    assert not planned("seed=1").is_finished()
    assert planned("seed=1").learning_rate > 0.1
    assert not planned(f"{RATE}=0.3").is_finished(), "only its step was left to the rule"


def test_a_run_with_a_probe_is_found_after_the_rule_has_changed(tiny_run, later_rule, planned):
    probe = ["learning_rate_probe=true", "learning_rate_probe_factors=[0.1,1]",
             "learning_rate_probe_widenings=0"]  # fmt: skip
    tiny_run(*AUTO, *probe)
    later_rule()
    assert planned(*probe).is_finished()


def test_a_damaged_summary_beside_it_is_passed_over(tiny_run, later_rule, planned, tmp_path):
    tiny_run(*AUTO)
    [folder] = folders(tmp_path)
    (folder / "summary.json").write_text("{", encoding="utf-8")
    later_rule()
    assert planned().learning_rate > 0.1


def test_an_extended_run_keeps_the_numbers_of_the_first(command, later_rule, tmp_path, caplog):
    first = command(*AUTO)
    [parent] = folders(tmp_path)
    later_rule()
    with caplog.at_level(logging.INFO):
        longer = command(f"extend_from={parent}", "max_tokens=8192", kept=[])
    assert (longer["steps"], longer["learning_rate"]) == (64, first["learning_rate"])
    assert longer["chosen_by_rule"] == first["chosen_by_rule"] == {STEP: 128, RATE: 0.0141}
    assert "0.0141 for the run that is extended" in logged(caplog)
    given = command(f"extend_from={parent}", "max_tokens=6144", f"{RATE}=auto", kept=[])
    assert (given["steps"], given["learning_rate"]) == (48, 0.0141)
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate=0\.3 \(there 0\.0141\)"):
        command(f"extend_from={parent}", "max_tokens=8192", f"{RATE}=0.3", kept=[])


def test_what_a_probe_chose_is_no_choice_of_the_rule_in_the_extended_run(command, tmp_path):
    first = command(*AUTO, "learning_rate_probe=true", "learning_rate_probe_factors=[0.1,0.2]",
                    "learning_rate_probe_widenings=0")  # fmt: skip
    [parent] = folders(tmp_path)
    longer = command(f"extend_from={parent}", "max_tokens=8192", kept=[])
    assert longer["learning_rate"] == first["learning_rate"] < 0.01
    assert longer["chosen_by_rule"] == {STEP: 128}


def test_a_run_of_the_old_defaults_is_extended(command, tmp_path):
    """AdamW with cosine, before there was a rule: what is not given is that of the run."""
    old = ["optimizer=adamw", "schedule=cosine", f"{RATE}=2e-3"]
    command(*old)
    [parent] = folders(tmp_path)
    summary = json.loads((parent / "summary.json").read_text(encoding="utf-8"))
    for key in ("chosen_by_rule", "rule_extrapolated"):
        del summary[key]
    (parent / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    longer = command(f"extend_from={parent}", "max_tokens=2048", kept=[])
    config = OmegaConf.load(folders(tmp_path)[-1] / "config.yaml")
    assert config.optimizer._target_ == "mobilellm.optim.adamw"
    assert "muon_learning_rate_ratio" not in config.optimizer
    assert "decay_fraction" not in config.schedule
    assert (longer["learning_rate"], longer["chosen_by_rule"]) == (2e-3, {})
    assert longer["rewarmed"]


def test_a_larger_budget_names_the_run_that_it_could_extend(command, tmp_path, caplog):
    """Though the rule chooses other numbers for it; not if one of them is set by hand."""
    command(*AUTO)
    [folder] = folders(tmp_path)
    with caplog.at_level(logging.INFO):
        command(*AUTO, f"{RATE}=0.3", "max_tokens=16384", "max_steps=1")
    assert "extend_from" not in caplog.text
    with caplog.at_level(logging.INFO):
        summary = command(*AUTO, "max_tokens=16384", "max_seconds=1e-6")
    assert summary["tokens_per_step"] == 256
    assert f"{folder} is the same run, finished at 4,096 tokens" in logged(caplog)
