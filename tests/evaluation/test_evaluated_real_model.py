"""Scores of a real Hugging Face model, against transformers one row at a time."""

import os

import pytest
import torch
from benchmark_rows import write_rows

from mobilellm.evaluation.harness.evaluate_task import evaluate_task
from mobilellm.evaluation.harness.tasks import open_tasks
from mobilellm.evaluation.language_model import encode_pairs
from mobilellm.pipeline.evaluated_model import open_language_model
from mobilellm.pipeline.evaluation_settings import EvaluationSettings

FOLDER = os.environ.get("MOBILELLM_TEST_MODEL")
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Berlin, a city of 3.7 million people."),
    ("Question: Why is the sky blue?\nAnswer:", " Because air scatters blue light more than red."),
    ("def add(a, b):\n    ", "return a + b"),
    ("Der Rhein fließt durch", " Köln."),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="MOBILELLM_TEST_MODEL names no Hugging Face folder"),
]


@pytest.fixture(scope="module")
def model():
    return open_language_model(FOLDER, EvaluationSettings(tasks=("boolq",)))


@pytest.fixture(scope="module")
def reference():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    return made, AutoTokenizer.from_pretrained(FOLDER)


def test_log_likelihoods_are_those_of_transformers(model, reference):
    theirs, tokenizer = reference
    encoded = encode_pairs(model, PAIRS).pairs
    found = model.score(encoded)
    for (context, answer), (prompt, rest), score in zip(PAIRS, encoded, found, strict=True):
        whole = tokenizer(context + answer)["input_ids"]
        size = len(tokenizer(context.rstrip())["input_ids"])
        assert [*prompt, *rest] == whole and len(prompt) == size
        with torch.no_grad():
            logs = theirs(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        nats = sum(float(logs[i - 1, whole[i]]) for i in range(size, len(whole)))
        assert score.log_likelihood == pytest.approx(nats, abs=1e-3)


def test_batches_do_not_change_scores(model):
    encoded = encode_pairs(model, PAIRS).pairs
    alone = [model.score([pair])[0].log_likelihood for pair in encoded]
    assert [s.log_likelihood for s in model.score(encoded)] == pytest.approx(alone, abs=1e-4)


def test_a_task_runs(model, tmp_path):
    task = open_tasks(["boolq"], write_rows(tmp_path, "boolq")).tasks["boolq"]
    record = evaluate_task(model, "boolq", task).record()
    assert record["documents"] == 6 and record["accuracy"] == record["harness"]["acc"]
