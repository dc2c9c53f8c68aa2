"""A run that was interrupted and resumed equals one left alone, bit for bit."""

import itertools

import pytest
import torch
from lightning.pytorch import Callback
from small_run import (
    SAMPLES,
    Tokens,
    fit,
    make_data,
    make_model,
    make_module,
    read_rows,
    without_times,
)

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.optim import adamw, muon

STEPS = 11


class CrashError(Exception):
    pass


class CrashAfter(Callback):
    """The process dies in the middle of a later step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise CrashError


class StopAfter(Callback):
    """Someone asks to stop at a step's end."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.should_stop = True


def run(folder, *callbacks, resume=False, size=SAMPLES, every=1, **module):
    saver = CheckpointCallback(folder / "checkpoints", every_steps=every)
    made = make_module(STEPS, **module)
    trainer = fit(
        made,
        make_data(size),
        folder,
        callbacks=[*callbacks, saver],
        resume=saver.last_path if resume else None,
    )
    return trainer, made


@pytest.mark.parametrize(
    ("validate", "size", "optimizer", "stop"),
    [(None, SAMPLES, adamw, 9), (4, 2, adamw, 1), (4, 2, adamw, 9), (2, 4, muon, 4)],
)
def test_stopped_and_resumed(tmp_path, stop, validate, size, optimizer):
    options = {"validate": validate, "size": size, "optimizer": optimizer}
    _, alone = run(tmp_path / "alone", **options)
    _, stopped = run(tmp_path / "resumed", StopAfter(stop), **options)
    assert not stopped.finished
    trainer, resumed = run(tmp_path / "resumed", resume=True, **options)
    assert trainer.global_step == STEPS
    assert resumed.tokens == alone.tokens
    assert resumed.elapsed_seconds > stopped.elapsed_seconds
    expected = without_times(read_rows(tmp_path / "alone"))
    assert without_times(read_rows(tmp_path / "resumed")) == expected
    for mine, other in zip(resumed.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, other)


# Once before the first checkpoint.
@pytest.mark.parametrize(("every", "crashes"), [(3, (2,)), (3, (4, 4, 10)), (1, (4, 4, 10))])
def test_killed_and_resumed(tmp_path, every, crashes):
    run(tmp_path / "alone", validate=4)
    resume = False
    for step in crashes:
        with pytest.raises(CrashError):
            run(tmp_path / "killed", CrashAfter(step), every=every, validate=4, resume=resume)
        resume = (tmp_path / "killed/checkpoints/last.ckpt").exists()
    run(tmp_path / "killed", resume=resume, validate=4)
    expected = without_times(read_rows(tmp_path / "alone"))
    assert without_times(read_rows(tmp_path / "killed")) == expected


def test_over_several_epochs(tmp_path):
    data = Tokens(train=16 * 20 + 1)
    seen = {}

    class Recorder(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.setdefault(name, []).append(torch.cat([m["input_ids"] for m in batch]))

    for name, callbacks, resume in (
        ("alone", [], False), ("resumed", [StopAfter(7)], False), ("resumed", [], True)
    ):  # fmt: skip
        saver = CheckpointCallback(tmp_path / name)
        fit(
            make_module(STEPS), make_data(tokens=data), callbacks=[Recorder(), *callbacks, saver],
            resume=saver.last_path if resume else None,
        )  # fmt: skip
    assert len(seen["alone"]) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(seen["alone"], seen["resumed"], strict=True))
    windows = torch.cat(seen["alone"]).tolist()
    for epoch in itertools.batched(windows, 20) if hasattr(itertools, "batched") else ():
        assert len({tuple(window) for window in epoch}) == len(epoch)


def test_the_random_state_is_restored(tmp_path):
    draws = {}

    class Draw(Callback):
        def on_train_batch_start(self, trainer, *_):
            draws[name].append(torch.rand(()).item())

    for name, callbacks, resume in (
        ("alone", [], False), ("resumed", [StopAfter(4)], False), ("resumed", [], True)
    ):  # fmt: skip
        draws.setdefault(name, [])
        torch.manual_seed(5 if not resume else 77)
        module = make_module(STEPS, model=make_model())
        if not resume:
            torch.manual_seed(5)
        saver = CheckpointCallback(tmp_path / name)
        fit(
            module, make_data(), callbacks=[Draw(), *callbacks, saver],
            resume=saver.last_path if resume else None,
        )  # fmt: skip
    assert draws["alone"] == draws["resumed"]


def test_wall_time_goes_on(tmp_path):
    _, first = run(tmp_path, StopAfter(3))
    _, second = run(tmp_path, resume=True)
    seconds = [float(row["seconds"]) for row in read_rows(tmp_path)]
    assert seconds == sorted(seconds)
    assert second.elapsed_seconds > first.elapsed_seconds


def test_another_model_is_refused(tmp_path):
    run(tmp_path, StopAfter(3))
    with pytest.raises(
        ValueError, match="another model: hidden_size=16, now 32; resume with the model of the"
    ):
        run(tmp_path, resume=True, model=make_model(hidden_size=32, head_dim=4))
