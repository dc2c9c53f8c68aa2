"""Signals end a run at a step's end, with a checkpoint that goes on exactly."""

import os
import signal

import pytest
from lightning.pytorch import Callback
from small_run import fit, make_data, make_module, read_rows, without_times

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.graceful_stop import GracefulStopCallback
from mobilellm.training.signals import STOP_SIGNALS


class Send(Callback):
    """Sends a signal to this process in the middle of a step."""

    def __init__(self, number, step, times=1):
        self.number, self.step, self.times = number, step, times

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_step_is_finished_saved_and_resumable(tmp_path, caplog, number):
    fit(make_module(8, validate=3), make_data(), tmp_path / "alone")
    before = signal.getsignal(number)
    stop, saver = GracefulStopCallback(), CheckpointCallback(tmp_path / "run")
    module = make_module(8, validate=3)
    trainer = fit(module, make_data(), tmp_path / "run", callbacks=[Send(number, 4), saver, stop])
    assert trainer.global_step == 5
    assert saver.saved_step == 5
    assert not module.finished
    assert stop.signal_name == number.name
    assert signal.getsignal(number) is before
    assert stop.message == (
        f"stopped by {number.name} after step 5; everything is saved; the same command with "
        "resume=true continues"
    )
    # Whoever ends the command says it, and nobody else.
    assert "stopped" not in caplog.text
    stop = GracefulStopCallback()
    module = make_module(8, validate=3)
    fit(
        module, make_data(), tmp_path / "run",
        callbacks=[CheckpointCallback(tmp_path / "run"), stop], resume=saver.last_path,
    )  # fmt: skip
    assert module.finished
    assert stop.signal_name is None
    rows = [without_times(read_rows(tmp_path / name)) for name in ("alone", "run")]
    assert rows[0] == rows[1]


def test_without_checkpoints_it_says_so():
    stop = GracefulStopCallback()
    fit(make_module(8), make_data(), callbacks=[Send(signal.SIGTERM, 1), stop])
    assert stop.message == (
        "stopped by SIGTERM after step 2; nothing was saved, because there is no checkpoint "
        "callback"
    )


def test_a_signal_in_the_last_step_finishes_the_run(tmp_path):
    stop, module = GracefulStopCallback(), make_module(3)
    fit(module, make_data(), callbacks=[Send(signal.SIGTERM, 2), stop])
    assert module.finished
    assert stop.signal_name is None


def test_a_second_interrupt_stops_at_once():
    stop = GracefulStopCallback()
    previous = signal.getsignal(signal.SIGINT)
    stop.on_train_start(None, None)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.on_exception(None, None, KeyboardInterrupt())
    assert signal.getsignal(signal.SIGINT) is previous


def test_children_ignore_the_signal():
    stop = GracefulStopCallback()
    stop.on_train_start(None, None)
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(7 if stop._received == 0 else 1)
    _, status = os.waitpid(child, 0)
    stop.on_exception(None, None, KeyboardInterrupt())
    assert os.waitstatus_to_exitcode(status) == 7
