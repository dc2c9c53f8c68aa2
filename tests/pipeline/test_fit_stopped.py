"""What is left of a run that was stopped, and of one that another command finished meanwhile."""

import json
import os
import signal
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing
from small_run import make_module

from mobilellm.cli.command import Stopped
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline import fit, micro_batch
from mobilellm.pipeline import train as run
from mobilellm.pipeline.plan import plan_run
from mobilellm.run_folder import read_summary

SEND = "+callbacks.send._target_=failing.SendSignal"


def the_folder(tmp_path):
    [path] = tmp_path.glob("outputs/*/*/summary.json")
    return path.parent


def test_ctrl_c_twice_is_a_stop(tiny_run, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        Stopped, match=r"stopped at once by SIGINT; the same command with resume=tr"
    ):
        tiny_run(SEND, "+callbacks.send.times=2", "+callbacks.send.step=6")
    assert signal.getsignal(signal.SIGINT) is before
    summary = read_summary(the_folder(tmp_path))
    assert (summary["status"], summary["error"]) == ("stopped", None)
    assert tiny_run("resume=true")["status"] == "finished"


def test_ctrl_c_once_is_told_once(tiny_run, tmp_path, caplog):
    with pytest.raises(Stopped, match=r"stopped by SIGINT after step 7; everything is saved"):
        tiny_run(SEND, "+callbacks.send.times=1", "+callbacks.send.step=6")
    assert "stopped" not in caplog.text
    assert read_summary(the_folder(tmp_path))["status"] == "stopped"


def test_sigterm_without_the_callback_that_waits_is_a_stop_too(tiny_run, tmp_path):
    with pytest.raises(Stopped, match=r"stopped at once by SIGTERM") as stopped:
        tiny_run(SEND, "+callbacks.send.number=15", "callbacks.graceful_stop=null",
                 "+callbacks.send.step=6")  # fmt: skip
    assert stopped.value.signal_number == signal.SIGTERM
    assert read_summary(the_folder(tmp_path))["status"] == "stopped"


@pytest.mark.parametrize("resume", ["true", "false"])
def test_a_run_that_was_finished_meanwhile_is_left_alone(tiny_run, tmp_path, monkeypatch, resume):
    original, summaries = run.check_prepared, []

    def meanwhile(*arguments):
        monkeypatch.setattr(run, "check_prepared", original)
        tiny_run()
        summaries.append((the_folder(tmp_path) / "summary.json").read_text(encoding="utf-8"))
        return original(*arguments)

    monkeypatch.setattr(run, "check_prepared", meanwhile)
    with pytest.raises(ValueError, match="is a finished run and is never overwritten"):
        tiny_run(f"resume={resume}")
    assert (the_folder(tmp_path) / "summary.json").read_text(encoding="utf-8") == summaries[0]
    assert json.loads(summaries[0])["tokens_per_second"] is not None


def test_the_last_validation_is_on_the_device_of_training():
    """A stand-in for GPUs: Lightning has moved the model away from the strategy's device."""
    module, seen = make_module(), []
    device = torch.device("cpu", 0)
    module.validate = lambda: seen.append(module.device)
    fit._validate_after_fit(SimpleNamespace(strategy=SimpleNamespace(root_device=device)), module)
    assert seen == [device]
    assert module.device == torch.device("cpu")


def sizes_of_unequal_ranks(rank, port, overrides, free, folder):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    from mobilellm.training.ranks import join_process_group, leave_process_group

    micro_batch.free_memory_bytes = lambda _: free[rank]
    planned = plan_run(compose("train", overrides))
    join_process_group(planned.trainer)
    (folder / str(rank)).write_text(str(micro_batch.micro_batch_size(planned)), encoding="utf-8")
    leave_process_group()


@pytest.mark.slow
def test_unequal_free_memory_gives_one_answer(tiny_overrides, tmp_path, monkeypatch):
    many = [*tiny_overrides, "tokens_per_step=2048", "max_tokens=2048", "micro_batch_size=auto"]
    free = [8e9, 3e6]
    alone = []
    for memory in free:
        monkeypatch.setattr(micro_batch, "free_memory_bytes", lambda _, memory=memory: memory)
        alone.append(micro_batch.micro_batch_size(plan_run(compose("train", many))))
    assert alone[1] < alone[0]
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    two = [*many, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    torch.multiprocessing.spawn(sizes_of_unequal_ranks, (port, two, free, tmp_path), nprocs=2)
    assert [int((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in (0, 1)] == [
        alone[1]
    ] * 2
