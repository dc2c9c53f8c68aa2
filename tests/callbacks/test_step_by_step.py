"""Labels and rationales as two tasks, trained by Lightning and counted on the label path."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from question_rows import prepare, rows
from small_run import Tokens, fit, make_data, make_model, make_module, read_rows, without_times

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.callbacks.label_accuracy import LabelAccuracyCallback
from mobilellm.callbacks.step_by_step import StepByStepCallback
from mobilellm.evaluation.answer_accuracy import answer_accuracy
from mobilellm.training.datamodule import TokenDataModule

LENGTH, SAMPLES = 256, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def data_of(folder, micro_batch_size=2, **options):
    return TokenDataModule(
        prepare(folder, **options),
        sequence_length=LENGTH,
        micro_batch_size=micro_batch_size,
        samples_per_step=SAMPLES,
        seed=3,
    )


def model_of(**changes):
    return make_model(vocab_size=300, **changes)


def naive_losses(model, batch):
    """Mean nats of each task's labels, from all logits in float64."""
    ids = batch["document_ids"]
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=ids[:, :, None] == ids[:, None, :]).logits
    losses = F.cross_entropy(
        logits.double().flatten(0, 1), batch["labels"].flatten(), reduction="none"
    )
    tasks = batch["tasks"].flatten()
    return [float(losses[tasks == task].mean()) for task in (1, 2)]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_loss_is_the_weighted_sum_of_both_tasks_means(folder, tmp_path, micro_batch_size):
    model = model_of()
    step = next(iter(data_of(folder, 4).train_dataloader()))
    label, rationale = naive_losses(model, step[0])
    module = make_module(1, model=model)
    data = data_of(folder, micro_batch_size)
    fit(module, data, tmp_path, callbacks=[StepByStepCallback(rationale_weight=0.3)])
    row = next(row for row in read_rows(tmp_path) if row["step"] == "1")
    assert float(row["train/loss/label"]) == pytest.approx(label, rel=1e-5)
    assert float(row["train/loss/rationale"]) == pytest.approx(rationale, rel=1e-5)
    assert float(row["train/loss"]) == pytest.approx(label + 0.3 * rationale, rel=1e-5)


def test_validation_is_the_label_path_alone(folder, tmp_path):
    module, data = make_module(2, model=model_of()), data_of(folder)
    fit(module, data, tmp_path, callbacks=[StepByStepCallback()])
    windows = data.batches.validation_windows
    batches = [{k: v[None] for k, v in windows[i].items()} for i in range(len(windows))]
    assert {int(task) for batch in batches for task in batch["tasks"].unique()} == {0, 1}
    sums = [naive_losses(module.model, b)[0] * int((b["labels"] != -100).sum()) for b in batches]
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert module.validation_result.loss == pytest.approx(sum(sums) / count, rel=1e-5)


def test_accuracy_is_written_and_summarised(folder, tmp_path):
    accuracy = LabelAccuracyCallback(validation_questions=7)
    module, data = make_module(4, model=model_of(), validate=2), data_of(folder)
    fit(module, data, tmp_path, callbacks=[StepByStepCallback(), accuracy])
    rows = {row["step"]: row for row in read_rows(tmp_path)}
    asked = [step for step, row in rows.items() if row["val/accuracy"]]
    assert asked == ["2", "4"]
    assert [rows[step]["val/questions"] for step in asked] == ["7", "20"]
    expected = answer_accuracy(module.model, data.prepared.questions())
    assert accuracy.summary() == {
        "val_accuracy": expected.share,
        "val_accuracy_low": expected.interval[0],
        "val_accuracy_high": expected.interval[1],
        "val_accuracy_chance": pytest.approx(1 / 3),
        "val_questions": 20,
    }
    assert float(rows["4"]["val/accuracy"]) == expected.share


def test_accuracy_can_wait_for_the_end_and_take_some_questions(folder, tmp_path):
    accuracy = LabelAccuracyCallback(validation_questions=None, max_questions=5)
    module = make_module(4, model=model_of(), validate=2)
    fit(module, data_of(folder), tmp_path, callbacks=[accuracy])
    assert [row["step"] for row in read_rows(tmp_path) if row["val/accuracy"]] == ["4"]
    assert accuracy.summary()["val_questions"] == 5


def test_counting_changes_nothing_that_is_learnt(folder, tmp_path):
    states = []
    for callbacks in ([], [LabelAccuracyCallback()]):
        torch.manual_seed(1)
        module = make_module(4, model=model_of(), validate=1)
        fit(module, data_of(folder), callbacks=callbacks)
        states.append([*module.model.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_learning_the_answers_is_seen(tmp_path):
    """The longest of three words: a model that has seen the questions often knows them."""
    asked = {"validation": str(tmp_path / "train.jsonl"), "name": "asked", "tasks": ["label"]}
    data = data_of(tmp_path, micro_batch_size=4, made=rows(30), **asked)
    accuracy = LabelAccuracyCallback(validation_questions=None)
    module = make_module(100, model=model_of(hidden_size=64, intermediate_size=96), log=100)
    fit(module, data, callbacks=[accuracy])
    assert accuracy.summary()["val_accuracy_low"] > 0.5


class StopAfter(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def test_a_resumed_run_is_the_uninterrupted_one(folder, tmp_path):
    def run(name, *others, resume=False):
        saver, accuracy = (
            CheckpointCallback(tmp_path / name, every_steps=1),
            LabelAccuracyCallback(),
        )
        module = make_module(9, model=model_of(), validate=4)
        fit(
            module, data_of(folder), tmp_path / name,
            callbacks=[StepByStepCallback(rationale_weight=0.4), accuracy, saver, *others],
            resume=saver.last_path if resume else None,
        )  # fmt: skip
        return module.model.state_dict(), accuracy.summary()

    alone, summary = run("alone")
    run("resumed", StopAfter(5))
    resumed, again = run("resumed", resume=True)
    assert again == summary
    assert all(torch.equal(alone[name], resumed[name]) for name in alone)
    rows = [without_times(read_rows(tmp_path / name)) for name in ("alone", "resumed")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if row["val/accuracy"]] == ["4", "8", "9"]
    # Nothing is left to train, and what was counted is still known.
    assert run("resumed", resume=True)[1] == summary


def test_other_data_is_refused():
    message = r"needs rationales, but the data's tasks are \[\]; use data=rationales"
    with pytest.raises(ValueError, match=message):
        fit(make_module(1), make_data(tokens=Tokens()), callbacks=[StepByStepCallback()])
    with pytest.raises(ValueError, match=r"needs questions, but the data have none; use data=r"):
        fit(make_module(1), make_data(tokens=Tokens()), callbacks=[LabelAccuracyCallback()])


def test_labels_alone_are_refused(folder):
    with pytest.raises(ValueError, match=r"the data's tasks are \[label\]; use data=rationales"):
        fit(
            make_module(1, model=model_of()),
            data_of(folder, tasks=["label"]),
            callbacks=[StepByStepCallback()],
        )


def test_a_question_beyond_the_context_is_refused(folder):
    module = make_module(1, model=model_of(max_position_embeddings=64))
    with pytest.raises(
        ValueError, match=r"a question with its answer has \d+ tokens, but the model"
    ):
        fit(module, data_of(folder), callbacks=[LabelAccuracyCallback()])


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_weights_are_refused(weight):
    with pytest.raises(ValueError, match=rf"rationale_weight={weight} must be .*at least 0"):
        StepByStepCallback(rationale_weight=weight)


@pytest.mark.parametrize("name", ["max_questions", "validation_questions", "batch_tokens"])
def test_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be a whole number of at least 1"):
        LabelAccuracyCallback(**{name: 0})
