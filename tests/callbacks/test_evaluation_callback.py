"""Benchmark tasks during training: what is logged is what evaluating the model alone gives."""

import pytest
from benchmark_rows import write_rows
from small_run import fit, make_data, make_model, make_module, read_rows
from tiny_tokenizers import make_byte_level

from mobilellm.callbacks.evaluation import EvaluationCallback
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.evaluation.harness import package
from mobilellm.evaluation.harness.evaluate_task import evaluate_task
from mobilellm.evaluation.harness.tasks import open_tasks
from mobilellm.evaluation.language_model import LanguageModel


def test_tasks_are_evaluated_at_validations_and_at_the_end(tmp_path):
    rows = write_rows(tmp_path / "rows", "boolq", "lambada_openai")
    path = make_byte_level(tmp_path / "tokenizer")
    data = make_data()
    data.prepared.tokenizer_path, data.prepared.bos_token_id = path, None
    tasks = ("lambada_openai", "boolq")
    callback = EvaluationCallback(tasks=tasks, data=str(rows), limit=2, final_limit=None)
    module = make_module(4, model=make_model(vocab_size=300), validate=2)
    fit(module, data, tmp_path / "run", callbacks=[callback])
    logged = {int(row["step"]): row for row in read_rows(tmp_path / "run")}
    assert float(logged[2]["val/boolq/accuracy"]) in (0, 0.25, 0.5, 0.75, 1)
    assert not logged[1]["val/boolq/accuracy"]
    tokenizer = open_tokenizer(path)
    model = LanguageModel(name="trained", model=module.model, tokenizer=tokenizer, adds_bos=False)
    opened = open_tasks(tasks, rows)
    for name in tasks:
        record = evaluate_task(model, name, opened.tasks[name]).record()
        for measure in ("accuracy", "bits_per_byte"):
            expected = pytest.approx(record[measure], abs=1e-5)
            assert float(logged[4][f"val/{name}/{measure}"]) == expected
            assert callback.summary()[f"val_{name}_{measure}"] == expected
    restored = EvaluationCallback(tasks=tasks, data=str(rows))
    restored.load_state_dict(callback.state_dict())
    assert restored.summary() == callback.summary()


def test_data_without_tokenizer_and_wrong_settings_are_refused(tmp_path, monkeypatch):
    data = make_data()
    data.prepared.tokenizer_path = None
    with pytest.raises(ValueError, match="but the data are token ids without a tokenizer"):
        fit(make_module(2), data, tmp_path, callbacks=[EvaluationCallback(tasks=["boolq"])])
    with pytest.raises(ValueError, match=r"callbacks.evaluation.tasks is empty"):
        EvaluationCallback(tasks=[])
    with pytest.raises(ValueError, match="limit=0"):
        EvaluationCallback(tasks=["boolq"], limit=0)
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mobilellm\[evaluation\]'"):
        EvaluationCallback(tasks=["boolq"])
