"""last.ckpt and best.ckpt: when they are written and what they hold."""

import errno
import os
import threading
from collections import OrderedDict

import pytest
import torch
from lightning.pytorch import Callback
from small_run import fit, make_data, make_model, make_module, read_rows
from torch.utils._pytree import tree_leaves

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.atomic_save import save_atomically
from mobilellm.training.background_writer import host_copy


class Watch(Callback):
    """Step of last.ckpt after each step."""

    def __init__(self, path):
        self.path, self.steps = path, []

    def on_train_batch_start(self, trainer, *_):
        self.steps.append(load(self.path)["global_step"] if self.path.exists() else None)


def load(path):
    return torch.load(path, weights_only=True)


def run(folder, steps=6, *callbacks, validate=None, **options):
    saver = CheckpointCallback(folder, **options)
    module = make_module(steps, validate=validate)
    trainer = fit(module, make_data(), callbacks=[saver, *callbacks])
    return saver, module, trainer


def test_every_so_many_steps_and_at_the_end(tmp_path):
    watch = Watch(tmp_path / "last.ckpt")
    run(tmp_path, 7, watch, every_steps=3, every_seconds=None)
    assert watch.steps == [None, None, None, 3, 3, 3, 6]
    assert load(tmp_path / "last.ckpt")["global_step"] == 7


def test_by_time(tmp_path):
    watch = Watch(tmp_path / "last.ckpt")
    run(tmp_path, 4, watch, every_seconds=1e-9)
    assert watch.steps == [None, 1, 2, 3]


def test_at_validation_and_best(tmp_path):
    class Worsen(Callback):
        """From step 4 on the model is ruined, so that the best is not the last."""

        def on_train_batch_start(self, trainer, pl_module, *_):
            if trainer.global_step == 3:
                with torch.no_grad():
                    pl_module.model.norm.weight.mul_(50.0)

    saver, _, _ = run(tmp_path, 6, Worsen(), validate=2, every_seconds=None)
    best, last = load(saver.best_path), load(saver.last_path)
    assert (best["global_step"], last["global_step"]) == (2, 6)
    assert not torch.equal(best["state_dict"]["model.norm.weight"],
                           last["state_dict"]["model.norm.weight"])  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert load(tmp_path / "previous.ckpt")["global_step"] == 4


def test_the_best_of_an_earlier_process_still_counts(tmp_path):
    saver, _, _ = run(tmp_path, 6, validate=2)
    saver = CheckpointCallback(tmp_path)
    fit(make_module(12, validate=2), make_data(), callbacks=[saver], resume=saver.last_path)
    best = load(saver.best_path)
    module_state = best["callbacks"][saver.state_key]
    assert saver.best_loss <= module_state["best_loss"]
    assert best["global_step"] in range(2, 13, 2)


def test_no_best_where_it_is_not_wanted(tmp_path):
    run(tmp_path, 2, keep_best=False)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_it_holds_plain_data_and_the_architecture(tmp_path):
    saver, module, _ = run(tmp_path, 3)
    checkpoint = load(saver.last_path)
    model = MobileLLM(ModelConfig.from_dict(checkpoint["model_config"]))
    prefix = "model."
    model.load_state_dict(
        {key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items()}
    )
    ids = torch.arange(10)[None]
    torch.testing.assert_close(model(ids).logits, module.model(ids).logits, rtol=0, atol=0)
    assert checkpoint["progress"]["step"] == 3
    assert checkpoint["progress"]["tokens"] == 3 * 128


def test_metrics_reach_as_far_as_the_checkpoint(tmp_path):
    class Crash(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 4:
                os._exit(0)

    child = os.fork()
    if child == 0:
        saver = CheckpointCallback(tmp_path, every_steps=4)
        fit(make_module(9), make_data(), tmp_path, callbacks=[saver, Crash()])
    os.waitpid(child, 0)
    assert load(tmp_path / "last.ckpt")["global_step"] == 4
    assert [row["step"] for row in read_rows(tmp_path)] == ["0", "1", "2", "3", "4"]


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    real_save = torch.save

    def save(content, file):
        if content["global_step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(content, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match=r"last\.ckpt was not written: No space left on device; the"):
        run(tmp_path, 6, every_steps=2)
    assert load(tmp_path / "last.ckpt")["global_step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt"]


class Gate:
    """Lets a checkpoint reach the disk only when it is opened, and counts the writers."""

    def __init__(self, monkeypatch):
        self.opened, self.writing, self.most = threading.Event(), 0, 0
        self.real_save = torch.save
        monkeypatch.setattr(torch, "save", self.save)

    def save(self, content, file):
        self.writing += 1
        self.most = max(self.most, self.writing)
        assert self.opened.wait(60)
        self.real_save(content, file)
        self.writing -= 1


def test_training_continues_while_a_file_is_written(tmp_path, monkeypatch):
    """The file has the weights of its step, and the run ends only after the last file."""

    class Open(Callback):
        def on_train_batch_start(self, trainer, *_):
            steps.append((trainer.global_step, (tmp_path / "background/last.ckpt").exists()))
            if trainer.global_step == 4:
                gate.opened.set()

    steps, options = [], {"every_seconds": None, "validate": 3}
    run(tmp_path / "waits", 6, every_steps=3, **options)
    gate = Gate(monkeypatch)
    run(tmp_path / "background", 6, Open(), every_steps=3, background=True, **options)
    assert steps[3:5] == [(3, False), (4, False)]
    assert gate.most == 1
    names = sorted(path.name for path in (tmp_path / "background").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    for name in names:
        mine, expected = (load(tmp_path / kind / name) for kind in ("background", "waits"))
        assert mine["global_step"] == expected["global_step"]
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "TokenDataModule"):
            flat = [list(map(repr, tree_leaves(state[part]))) for state in (mine, expected)]
            assert flat[0] == flat[1]


def test_a_file_that_fails_in_the_background_ends_the_run(tmp_path, monkeypatch):
    """At a later step or at its end, and with the checkpoint before it in place."""
    real_save, wrong = torch.save, 0

    def save(content, file):
        if content["global_step"] == wrong:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(content, file)

    monkeypatch.setattr(torch, "save", save)
    for wrong in (2, 4):
        with pytest.raises(OSError, match=r"last\.ckpt was not written: No space left on device"):
            run(tmp_path / str(wrong), 4, every_steps=2, background=True, every_seconds=None)
        kept = [path.name for path in (tmp_path / str(wrong)).iterdir()]
        assert kept == ([] if wrong == 2 else ["last.ckpt"])
    assert load(tmp_path / "4/last.ckpt")["global_step"] == 2


def test_an_error_of_the_run_waits_for_the_file_before_it(tmp_path, monkeypatch):
    class Crash(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 4:
                threading.Timer(0.1, gate.opened.set).start()
                raise RuntimeError("an error")

    gate = Gate(monkeypatch)
    with pytest.raises(RuntimeError, match="an error"):
        run(tmp_path, 6, Crash(), every_steps=4, background=True, every_seconds=None)
    assert load(tmp_path / "last.ckpt")["global_step"] == 4


def test_a_copy_of_the_host_shares_nothing():
    weight, momentum = torch.ones(3), torch.zeros(2)
    state = OrderedDict(weight=weight)
    state._metadata = {"version": 1}
    original = {"state": state, "list": [(momentum, 2), "text", None]}
    copied = host_copy(original)
    weight.add_(1)
    momentum.add_(1)
    assert copied["state"]["weight"].tolist() == [1, 1, 1]
    assert copied["list"][0][0].tolist() == [0, 0]
    assert copied["list"][1:] == ["text", None]
    assert type(copied["state"]) is OrderedDict


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "last.ckpt.123.tmp").write_text("half a checkpoint", encoding="utf-8")
    run(tmp_path, 2, keep_best=False)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_bad_intervals_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="every_steps=0 must be a whole number of at least 1; null disables it"
    ):
        CheckpointCallback(tmp_path, every_steps=0)
    with pytest.raises(ValueError, match="every_seconds=-1 must be above 0; null disables it"):
        CheckpointCallback(tmp_path, every_seconds=-1)


def test_a_model_of_another_shape_is_refused_before_training(tmp_path):
    run(tmp_path, 2)
    with pytest.raises(ValueError, match="num_blocks=2, now 3; resume with the model of the"):
        fit(
            make_module(4, model=make_model(num_blocks=3)), make_data(),
            resume=tmp_path / "last.ckpt",
        )  # fmt: skip


def test_a_link_is_not_followed_when_last_is_replaced(tmp_path):
    save_atomically({"a": 1}, tmp_path / "last.ckpt")
    os.link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    save_atomically({"a": 2}, tmp_path / "last.ckpt")
    assert load(tmp_path / "best.ckpt") == {"a": 1}
