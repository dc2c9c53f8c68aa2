"""The driver of compression in stages, with a trainer but without Hydra and without a pipeline."""

import json

import pytest
import torch
from low_rank_recipe import LowRank
from small_run import make_data, make_model, make_module, read_rows, without_times
from torch.testing import assert_close

from mobilellm.callbacks import CheckpointCallback, CompressionCallback, DistillationCallback
from mobilellm.callbacks.compression_stages import FOLDER, PLAN
from mobilellm.distillation import ForwardKL
from mobilellm.training import CSVLogger, TrainerConfig, make_trainer


class Counting(LowRank):
    """Counts how often it plans with calibration text."""

    made = 0

    def plan(self, model, calibration):
        type(self).made += bool(calibration)
        return super().plan(model, calibration)


class Interrupted(Exception):
    """As a kill, after a step that was not saved."""


def compression_of(recipe=None, **settings):
    return CompressionCallback(recipe or LowRank(), calibration_tokens=16, **settings)


def train(folder, compression, *others, module=None, checkpoints=True, keep_dense=False):
    """The trained model, all callbacks used over all stages."""
    callbacks = [compression, *others]
    if checkpoints:
        callbacks.append(CheckpointCallback(folder / "checkpoints"))
    data, logger = make_data(), CSVLogger(folder)
    stages = compression.stages(module or make_module(12), data, folder, keep_dense=keep_dense)
    stage = None
    for stage in stages:
        trainer = make_trainer(
            TrainerConfig(accelerator="cpu"),
            max_steps=stage.max_steps,
            callbacks=callbacks,
            loggers=[logger],
        )
        trainer.fit(stage.module, datamodule=data, ckpt_path=stage.checkpoint)
    return stage.module.model


def weights(model):
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def test_each_stage_compresses_its_matrices_and_is_logged(tmp_path):
    compression = compression_of(num_stages=3)
    model = train(tmp_path, compression)
    assert [len(record.layers) for record in compression.records] == [2, 2, 2]
    assert len(model.config.compressed_layers) == 6
    assert [record.step for record in compression.records] == [0, 4, 8]
    rows = {int(row["step"]): row for row in read_rows(tmp_path)}
    assert sorted(rows) == list(range(13))
    for record in compression.records:
        row = rows[record.step]
        assert float(row["compression/loss_after"]) == record.loss_after
        assert int(row["parameters/stored"]) == record.parameters_after < record.parameters_before
        assert row["val/loss"], "the row has the values of the validation too"
    report = compression.report(1.5)
    recovered = [record.loss_before for record in compression.records[1:]] + [1.5]
    assert [stage["loss_recovered"] for stage in report] == recovered


def test_records_are_restored_from_the_checkpoint(tmp_path):
    compression = compression_of(num_stages=2, first_start=0.25)
    train(tmp_path, compression)
    again = compression_of(num_stages=2, first_start=0.25)
    train(tmp_path, again)
    assert again.records == compression.records
    assert [record.step for record in again.records] == [3, 8]


@pytest.mark.parametrize("step", [2, 5, 11])
def test_a_run_interrupted_in_any_stage_continues_exactly(tmp_path, monkeypatch, step):
    settings = {"num_stages": 2, "first_start": 0.25}
    whole = train(tmp_path / "whole", compression_of(**settings))
    module = make_module(12)
    training_step = type(module).training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == step:
            raise Interrupted
        training_step(self, batch, batch_idx)

    saves = CheckpointCallback(tmp_path / "cut/checkpoints", every_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(type(module), "training_step", interrupted)
        with pytest.raises(Interrupted):
            train(tmp_path / "cut", compression_of(**settings), saves, checkpoints=False)
    again = CheckpointCallback(tmp_path / "cut/checkpoints", every_steps=2)
    model = train(tmp_path / "cut", compression_of(**settings), again, checkpoints=False)
    assert_close(weights(model), weights(whole), rtol=0, atol=0)
    rows = [without_times(read_rows(tmp_path / name)) for name in ("whole", "cut")]
    assert rows[0] == rows[1]


def test_the_model_before_compression_teaches(tmp_path):
    compression = compression_of(num_stages=2, first_start=0.25)
    distillation = DistillationCallback("dense", {"kl": ForwardKL()}, cross_entropy_weight=0.5)
    train(tmp_path, compression, distillation, keep_dense=True)
    rows = {int(row["step"]): row["train/loss/kl"] for row in read_rows(tmp_path)}
    assert [step for step, value in rows.items() if value] == list(range(4, 13))


def test_the_model_before_compression_must_be_kept(tmp_path):
    distillation = DistillationCallback("dense", {"kl": ForwardKL()})
    with pytest.raises(ValueError, match="keep_dense=True from the start of the run"):
        train(tmp_path, compression_of(), distillation)


def test_a_stage_must_end_with_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"ended at step 6, .* give the trainer a CheckpointCallb"):
        train(tmp_path, compression_of(num_stages=2, first_start=0.5), checkpoints=False)


def test_a_fit_without_stages_is_refused(tmp_path):
    trainer = make_trainer(
        TrainerConfig(accelerator="cpu"), max_steps=2, callbacks=[compression_of()]
    )
    with pytest.raises(ValueError, match=r"for stage in compression\.stages"):
        trainer.fit(make_module(2), datamodule=make_data())


def test_a_plan_that_cannot_be_divided_into_stages_is_kept(tmp_path):
    recipe = Counting()
    Counting.made = 0
    too_many = compression_of(recipe, num_stages=10, order="least_sensitive")
    with pytest.raises(ValueError, match="num_stages=10 exceeds the number of layers"):
        train(tmp_path, too_many)
    saved = json.loads((tmp_path / FOLDER / PLAN).read_text(encoding="utf-8"))
    assert len(saved["plan"]["layers"]) == 6
    train(tmp_path, compression_of(recipe, num_stages=2, order="least_sensitive"))
    assert Counting.made == 1


def test_the_plan_of_a_later_stage_must_not_be_lost(tmp_path):
    compression = compression_of(num_stages=2)
    stages = compression.stages(make_module(12), make_data(), tmp_path)
    next(stages)
    (tmp_path / FOLDER / PLAN).unlink()
    train_rest = compression_of(num_stages=2)
    with pytest.raises(FileNotFoundError, match="the plan for stage 2 of compression, is missing"):
        train(tmp_path, train_rest)


def test_the_initial_model_is_left_as_it_is_on_the_next_start(tmp_path):
    torch.manual_seed(0)
    module = make_module(12)
    before = weights(make_model())
    next(compression_of().stages(module, make_data(), tmp_path))
    assert_close(weights(module.model), before, rtol=0, atol=0)
