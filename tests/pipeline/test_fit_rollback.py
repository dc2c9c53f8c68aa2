"""A run that goes back: which samples it trains on, and that it ends as a run on those alone."""

import json
import sys

import pytest
import torch
from killed_runs import rows
from lightning.pytorch import Callback

POISON = ["+callbacks.poison._target_=poison.Poison", "+callbacks.poison.at=[20]"]
ROLL_BACK = ["callbacks.loss_guard.action=rollback", "log_interval_steps=1"]
SEEN = "+callbacks.seen._target_=test_fit_rollback.Seen"
seen: list[tuple[int, list[int]]] = []


class Seen(Callback):
    """Notes each step's windows."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        windows = torch.cat([micro_batch["window"] for micro_batch in batch])
        seen.append((trainer.global_step, windows.tolist()))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "test_fit_rollback", sys.modules[__name__])
    seen.clear()


def checkpoint(tmp_path, name):
    [path] = tmp_path.glob(f"outputs/{name}/*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True)


def test_it_goes_on_behind_the_bad_step(tiny_run, tmp_path):
    tiny_run("log_interval_steps=1", SEEN, "experiment_name=clean", "max_tokens=3072")
    order = [windows for _, windows in seen]
    seen.clear()
    summary = tiny_run(*ROLL_BACK, *POISON, SEEN, "experiment_name=back")
    # Step 6 (samples 20 to 23) is bad, and the last checkpoint is of step 4 (sample 16).
    steps = [step for step, _ in seen]
    assert steps == [0, 1, 2, 3, 4, 5, *range(4, 12)]
    assert [windows for _, windows in seen] == order[:6] + order[6:14]
    [event] = summary["loss_guard"]
    assert (event["step"], event["to_step"]) == (6, 4)
    assert (event["first_sample"], event["next_sample"]) == (16, 24)
    assert (summary["status"], summary["steps"], summary["tokens"]) == ("finished", 12, 12 * 128)
    state = checkpoint(tmp_path, "back")
    assert state["TokenDataModule"]["consumed_samples"] == 24 + 8 * 4
    [folder] = tmp_path.glob("outputs/back/*-*")
    assert [row["step"] for row in rows(folder)] == [str(step) for step in range(13)]


def test_a_bad_first_step_goes_back_to_the_start(tiny_run):
    summary = tiny_run(*ROLL_BACK, POISON[0], "+callbacks.poison.at=[0]")
    [event] = summary["loss_guard"]
    assert (event["to_step"], event["first_sample"], event["next_sample"]) == (0, 0, 4)
    assert summary["status"] == "finished"


def test_rollbacks_are_limited(tiny_run, tmp_path):
    at = "+callbacks.poison.at=[20,24,28]"
    with pytest.raises(ValueError, match=r"step 5: .* limit=2 rollbacks did not help"):
        tiny_run(*ROLL_BACK, POISON[0], at, "callbacks.loss_guard.limit=2")
    [path] = tmp_path.glob("outputs/*/*/summary.json")
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["status"] == "failed"
    assert summary["error"].startswith("TrainingDiverged: training diverged at step 5: ")


def test_ended_after_it_went_back_it_ends_alike(tiny_run, tmp_path):
    alone = tiny_run(*ROLL_BACK, *POISON, "experiment_name=alone")
    again = [*ROLL_BACK, *POISON, "+callbacks.once._target_=failing.FailOnce",
             f"+callbacks.once.mark={tmp_path}/failed", "+callbacks.once.step=6",
             "experiment_name=twice"]  # fmt: skip
    with pytest.raises(RuntimeError, match="fails once"):
        tiny_run(*again)
    resumed = tiny_run(*again, "resume=true")
    assert resumed["loss_guard"] == alone["loss_guard"]
    assert resumed["val_loss"] == alone["val_loss"]
    first, second = (checkpoint(tmp_path, name) for name in ("alone", "twice"))
    assert first["TokenDataModule"] == second["TokenDataModule"]
    for name, weight in first["state_dict"].items():
        assert torch.equal(weight, second["state_dict"][name])
