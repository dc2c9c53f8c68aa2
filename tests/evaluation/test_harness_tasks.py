"""Tasks of the harness on local rows: selection, results, and what a constant model achieves."""

import math

import numpy as np
import pytest
from benchmark_rows import ROWS, write_rows
from naive_text import make_model

from mobilellm.evaluation.continuations import ContinuationScore
from mobilellm.evaluation.harness import package
from mobilellm.evaluation.harness.evaluate_task import evaluate_task, num_requests
from mobilellm.evaluation.harness.results import from_plain, to_plain
from mobilellm.evaluation.harness.task_names import MEMBERS
from mobilellm.evaluation.harness.tasks import open_tasks
from mobilellm.evaluation.language_model import LanguageModel

CHOICE_TASKS = ("arc_easy", "boolq", "winogrande", "hellaswag", "blimp_passive_1", "race")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def opened(rows):
    return open_tasks(list(ROWS), rows)


class ConstantModel(LanguageModel):
    """Gives every continuation the same score."""

    def score(self, pairs, advance=None):
        return [ContinuationScore(-5.0, False) for _ in pairs]


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_a_constant_model_has_exactly_chance(opened, name):
    """On BLiMP, the harness gives it 100 %, since the right sentence comes first."""
    plain = make_model()
    model = ConstantModel(name="constant", model=plain.model, tokenizer=plain.tokenizer,
                          adds_bos=False)  # fmt: skip
    result = evaluate_task(model, name, opened.tasks[name])
    record = result.record()
    assert record["accuracy"] == record["accuracy_unconditional"] == pytest.approx(record["chance"])
    if all(len(set(question.characters)) == 1 for question in result.choices):
        assert record["accuracy_norm"] == pytest.approx(record["chance"])
    if name == "blimp_passive_1":
        assert record["harness"]["acc"] == 1 and record["chance"] == 0.5


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_without_ties_accuracies_are_the_harness_s(opened, name):
    result = evaluate_task(make_model(context=256), name, opened.tasks[name])
    record = result.record()
    assert record["documents"] == 6 and record["truncated"] == 0
    for ours, theirs in (("accuracy", "acc"), ("accuracy_norm", "acc_norm")):
        if theirs in record["harness"]:
            assert record[ours] == pytest.approx(record["harness"][theirs])
    low, high = record["accuracy_interval"]
    assert 0 <= low <= record["accuracy"] <= high <= 1


def test_measures_are_those_of_the_scores(opened):
    model = make_model(context=256)
    result = evaluate_task(model, "hellaswag", opened.tasks["hellaswag"])
    assert [q.right for q in result.choices] == [(i % 4,) for i in range(6)]
    first = result.choices[0]
    assert first.characters == tuple(len(text) for text in ROWS["hellaswag"][0]["endings"])
    bits = sum(-q.log_likelihoods[q.right[0]] for q in result.choices) / math.log(2)
    size = sum(q.num_bytes[q.right[0]] for q in result.choices)
    assert result.record()["bits_per_byte"] == pytest.approx(bits / size)
    assert np.isfinite(first.unconditional).all()


def test_choices_in_the_context_are_compared_by_the_common_end(opened):
    result = evaluate_task(make_model(context=256), "winogrande", opened.tasks["winogrande"])
    assert [q.right for q in result.choices] == [(i % 2,) for i in range(6)]
    assert all(len(set(q.characters)) == 1 for q in result.choices)
    record = result.record()
    assert record["accuracy"] == record["accuracy_norm"] == record["accuracy_unconditional"]


def test_log_likelihood_tasks_have_accuracy_and_bits(opened):
    record = evaluate_task(
        make_model(context=256), "lambada_openai", opened.tasks["lambada_openai"]
    ).record()
    assert record["accuracy"] == record["harness"]["acc"]
    assert record["bits_per_byte"] == pytest.approx(
        math.log2(record["harness"]["perplexity"]) / len("slab"), rel=1e-3
    )
    assert "chance" not in record


def test_generated_answers_have_exact_match(opened):
    record = evaluate_task(
        make_model(context=512), "triviaqa", opened.tasks["triviaqa"], limit=2
    ).record()
    assert record["exact_match"] == record["harness"]["exact_match"] == 0
    assert record["documents"] == 2


def test_truncated_prompts_are_counted(opened):
    record = evaluate_task(make_model(context=40), "boolq", opened.tasks["boolq"], limit=3).record()
    assert record["truncated"] == 6


def test_only_shares_of_a_single_document_have_an_interval(opened):
    model = make_model(context=256)
    record = evaluate_task(model, "arc_easy", opened.tasks["arc_easy"], limit=1).record()
    low, high = record["accuracy_interval"]
    assert high - low > 0.5
    assert {"bits_per_byte", "margin"} <= record.keys()
    assert not {"bits_per_byte_interval", "margin_interval"} & record.keys()


def test_limit_takes_the_first_documents(opened):
    task = opened.tasks["hellaswag"]
    few = evaluate_task(make_model(context=256), "hellaswag", task, limit=2)
    every = evaluate_task(make_model(context=256), "hellaswag", task)
    scores = [np.array([q.log_likelihoods for q in r.choices]) for r in (few, every)]
    assert np.allclose(scores[0], scores[1][:2], atol=1e-3)
    assert few.settings["documents_hash"] != every.settings["documents_hash"]
    assert (num_requests(task, 2), num_requests(task, None)) == (2 * 4 * 2, 6 * 4 * 2)


def test_results_are_restored_from_plain_data(opened):
    result = evaluate_task(make_model(context=256), "arc_easy", opened.tasks["arc_easy"])
    assert from_plain(to_plain(result)) == result
    assert from_plain(to_plain(result)).record() == result.record()


def test_few_shot_examples_come_from_the_training_split(tmp_path):
    folder = write_rows(tmp_path, "arc_easy", splits=("train",))
    task = open_tasks(["arc_easy"], folder, 2).tasks["arc_easy"]
    task.build_all_requests(limit=1)
    assert task.instances[0].args[0].count("Question:") == 3
    with pytest.raises(ValueError, match=r"--num-fewshot 99 must be at most 5 for arc_easy, whose"):
        open_tasks(["arc_easy"], folder, 99)
    open_tasks(["arc_easy"], folder, 5).tasks["arc_easy"].build_all_requests(limit=1)
    with pytest.raises(ValueError, match="few-shot examples of boolq come from the split train"):
        open_tasks(["boolq"], write_rows(tmp_path / "other", "boolq"), 2)


def test_the_papers_group_has_its_eight_tasks(tmp_path):
    folder = write_rows(tmp_path, *MEMBERS)
    opened = open_tasks(["mobilellm"], folder)
    assert tuple(opened.tasks) == MEMBERS and len(MEMBERS) == 8
    (folder / "piqa/validation.jsonl").unlink()
    with pytest.raises(ValueError, match=r"rows of piqa are not on this machine .*DIR/piqa/<split"):
        open_tasks(["mobilellm"], folder)


def test_groups_and_patterns_are_their_tasks():
    from lm_eval.tasks import TaskManager

    from mobilellm.evaluation.harness.task_names import select_tasks
    from mobilellm.evaluation.harness.tasks import usual_folders

    index = TaskManager(include_defaults=False, include_path=usual_folders()).task_index
    assert len(select_tasks(["blimp"], index).tasks) == 67
    pattern = select_tasks(["blimp_passive_*", "piqa", "piqa"], index)
    assert pattern.tasks == ("blimp_passive_1", "blimp_passive_2", "piqa")
    assert pattern.groups == {"blimp_passive_*": ("blimp_passive_1", "blimp_passive_2")}
    with pytest.raises(ValueError, match=r"task 'helaswag' is not known.*hellaswag"):
        select_tasks(["helaswag"], index)
    with pytest.raises(ValueError, match="no task was given"):
        select_tasks([], index)


def test_wrong_rows_are_refused(tmp_path):
    folder = write_rows(tmp_path, "arc_easy", "boolq")
    (folder / "arc_easy" / "test.jsonl").rename(folder / "arc_easy" / "dev.jsonl")
    with pytest.raises(ValueError, match=r"has dev.jsonl, but arc_easy is evaluated on the split"):
        open_tasks(["arc_easy"], folder)
    path = folder / "boolq" / "validation.jsonl"
    path.write_text('{"passage": "A"}\n{"passage"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"validation.jsonl line 2 is not JSON .* correct or r"):
        open_tasks(["boolq"], folder)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no rows"):
        open_tasks(["boolq"], folder)
    with pytest.raises(FileNotFoundError, match=r"--data .*none is not a folder"):
        open_tasks(["boolq"], folder / "none")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mobilellm\[evaluation\]'"):
        open_tasks(["boolq"])
