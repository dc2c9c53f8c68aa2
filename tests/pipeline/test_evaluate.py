"""`mobilellm evaluate` on saved models: results, their file, continuing, and what is refused."""

import gzip
import json
import shutil

import pytest
import torch
from benchmark_rows import write_rows
from tiny_tokenizers import TEXT, make_byte_level, make_tokenizer

from mobilellm.checkpoint import save_model
from mobilellm.commands import evaluate
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline import evaluate as pipeline
from mobilellm.pipeline import evaluation_items
from mobilellm.pipeline.evaluation_settings import EvaluationSettings
from mobilellm.pipeline.evaluation_texts import has_documents, read_text

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def save(folder, seed=0, vocab_size=300, tokenizer=None, **options):
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=24, num_blocks=2,
        num_attention_heads=2, max_position_embeddings=256, **options,
    )  # fmt: skip
    model = MobileLLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    save_model(model, folder / "model", tokenizer)
    (folder / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), "arc_easy", "boolq")


@pytest.fixture
def models(tmp_path):
    tokenizer = make_byte_level(tmp_path / "tokenizer")
    return [save(tmp_path / name, seed, tokenizer=tokenizer) for seed, name in enumerate("ab")]


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def refused(capsys, *arguments):
    """The message of a command that is refused."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


def test_json_is_one_object_with_the_fields_of_the_contract(capsys, models, rows, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 5, encoding="utf-8")
    code, out, _ = run(
        capsys, models[0], "--tasks", "arc_easy,boolq", "--data", rows, "--text", text,
        "--window", 32, "--stride", 32, "--format", "json",
    )  # fmt: skip
    record = json.loads(out)
    assert code == 0 and record["model"] == str(models[0])
    for name in ("arc_easy", "boolq"):
        fields = {"documents", "accuracy", "accuracy_norm", "bits_per_byte", "chance", "margin"}
        assert fields <= set(record["tasks"][name])
    (entry,) = record["text"].values()
    assert {"tokens", "nats_per_token", "bits_per_byte"} <= set(entry)
    assert entry["bytes"] == len(TEXT) * 5
    stored = json.loads((models[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert stored["tasks"] == record["tasks"] and stored["text"] == record["text"]


def test_several_models_give_a_list_with_comparisons(capsys, models, rows):
    code, out, _ = run(capsys, *models, "--tasks", "boolq", "--data", rows, "--format", "json")
    first, second = json.loads(out)
    assert code == 0 and second["comparisons"] == []
    assert {each["measure"] for each in first["comparisons"]} >= {"accuracy", "bits_per_byte"}
    assert first["tasks"]["boolq"]["settings"] == second["tasks"]["boolq"]["settings"]


def test_the_table_fits_80_columns(capsys, monkeypatch, models, rows):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, *models, "--tasks", "arc_easy,boolq", "--data", rows)
    assert code == 0
    assert out.startswith("Which measures could tell these models apart")
    assert max(map(len, out.splitlines())) <= 80


def test_finished_tasks_are_not_repeated(capsys, models, rows, monkeypatch):
    run(capsys, models[0], "--tasks", "boolq", "--data", rows)
    evaluated = []
    original = evaluation_items.evaluate_task
    monkeypatch.setattr(
        evaluation_items, "evaluate_task",
        lambda model, name, *a, **k: evaluated.append(name) or original(model, name, *a, **k),
    )  # fmt: skip
    _, out, _ = run(capsys, models[0], "--tasks", "boolq,arc_easy", "--data", rows)
    assert evaluated == ["arc_easy"]
    assert "--again repeats it" in out
    run(capsys, models[0], "--tasks", "boolq", "--data", rows, "--again")
    run(capsys, models[0], "--tasks", "boolq", "--data", rows, "--limit", 3)
    assert evaluated == ["arc_easy", "boolq", "boolq"]
    kept = json.loads((models[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert kept["tasks"]["boolq"]["documents"] == 6  # the trial on 3 replaced nothing
    assert set(kept["tasks"]) == {"boolq", "arc_easy"}


def test_a_trial_on_few_windows_replaces_no_result_on_more_of_a_text(capsys, models, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 5, encoding="utf-8")

    def stored(*options):
        code, out, _ = run(capsys, models[0], "--text", text, *options)
        record = json.loads((models[0] / "evaluation.json").read_text(encoding="utf-8"))
        assert code == 0
        return record["text"][str(text)], out

    few, out = stored("--window", 32, "--max-windows", 2)
    assert few["windows"] == 2 and "kept" not in out
    whole, _ = stored("--window", 32)
    assert whole["windows"] == whole["all_windows"] > 2
    for trial in (["--window", 32], ["--window", 64], ["--protocol", "strided", "--window", 32]):
        kept, out = stored(*trial, "--max-windows", 1)
        assert kept == whole
        assert "on more documents or windows" in out and "±" not in out
    # Another protocol of the whole text replaces it, although it has fewer windows.
    other, _ = stored("--window", 64)
    assert other["windows"] < whole["windows"] and "64" in other["protocol"]


def test_results_of_other_weights_are_replaced(capsys, models, rows):
    run(capsys, models[0], "--tasks", "boolq,arc_easy", "--data", rows)
    shutil.rmtree(models[0] / "model")
    shutil.copytree(models[1] / "model", models[0] / "model")
    run(capsys, models[0], "--tasks", "boolq", "--data", rows)
    record = json.loads((models[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert set(record["tasks"]) == {"boolq"}


def test_models_that_are_not_runs_are_left_as_they_are(capsys, models, rows, tmp_path):
    folder = models[0] / "model"
    before = sorted(path.name for path in folder.iterdir())
    assert run(capsys, folder, "--tasks", "boolq", "--data", rows)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == before
    run(capsys, folder, "--tasks", "boolq", "--data", rows, "--out", tmp_path / "out")
    assert (tmp_path / "out/evaluation.json").is_file()


def test_a_chat_model_is_noted_or_given_its_template(capsys, rows, tmp_path):
    """A fine-tuned model that is scored with plain prompts looks worse than it is."""
    tokenizer = make_byte_level(tmp_path / "tokenizer", template=TEMPLATE)
    model = save(tmp_path / "chat", tokenizer=tokenizer)
    command = (model, "--tasks", "boolq", "--data", rows, "--format", "json")
    _, plain, err = run(capsys, *command)
    assert "has a chat template, but the prompts were given as plain text; --chat" in err
    _, chat, err = run(capsys, *command, "--chat")
    assert "chat template, but" not in err
    scores = [json.loads(out)["tasks"] for out in (plain, chat)]
    assert set(scores[0]) == {"boolq"} and set(scores[1]) == {"boolq:chat"}
    assert scores[0]["boolq"]["bits_per_byte"] != scores[1]["boolq:chat"]["bits_per_byte"]


def test_begin_of_text_follows_the_model_s_files(tmp_path):
    settings = EvaluationSettings(text=(tmp_path,))
    own = save(tmp_path / "own", vocab_size=64, tokenizer=make_tokenizer(tmp_path / "words"))
    opened = pipeline.open_language_model(own, settings)
    assert (opened.adds_bos, opened.start) == (False, 2)
    export_huggingface(opened.model, tmp_path / "hf", own / "model/tokenizer.model")
    (tmp_path / "hf/tokenizer_config.json").unlink(missing_ok=True)
    assert pipeline.open_language_model(tmp_path / "hf", settings).begin == (1,)
    stated = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": True}
    tokenizer = make_byte_level(tmp_path / "stated", settings=stated)
    begun = save(tmp_path / "begun", tokenizer=tokenizer)
    assert pipeline.open_language_model(begun, settings).begin == (1,)
    without = EvaluationSettings(text=(tmp_path,), add_bos=False)
    assert pipeline.open_language_model(begun, without).begin == ()


def test_compressed_texts_and_line_ends_are_read_as_in_training(tmp_path):
    whole = tmp_path / "a.txt"
    whole.write_bytes(b"one\r\ntwo\n")
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8")
    for path in (whole, rows):
        packed = tmp_path / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert read_text(packed) == read_text(path)
        assert has_documents(packed) == has_documents(path) == (path is rows)
    assert (read_text(whole), read_text(rows)) == (["one\r\ntwo\n"], ["one", "two"])


def test_wrong_use_is_refused_before_work_starts(capsys, models, rows, tmp_path):
    model = models[0]
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"body": "b"}\n', encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café".encode("latin1"))
    for arguments, message in (
        ([model], "nothing to evaluate; give --tasks mobilellm or --text FILE"),
        ([model, "--tasks", "piqa", "--data", rows], "the rows of piqa are not on this machine"),
        ([model, "--text", text, "--limit", 3], "--limit 3 has no effect without --tasks"),
        ([model, "--text", text, "--again"], "--again has no effect without --tasks; leave it out"),
        ([model, "--tasks", "boolq", "--window", 3], "--window 3 has no effect without --text"),
        ([model, "--text", text, "--window", 512], "window=512 exceeds max_position_embeddings"),
        ([model, "--text", text, "--stride", 600], "stride=600 must lie between 1 and window=512"),
        ([model, "--tasks", "boolq", "--data", rows, "--limit", 0], "limit=0"),
        ([model, "--text", tmp_path / "none.txt"], "none.txt is not a file"),
        ([model, "--text", bad], "bad.jsonl line 2 has no field text"),
        ([model, "--text", latin], "latin.txt is not UTF-8: byte 0xe9 at offset 3; convert it"),
        ([model, "--tasks", "boolq", "--protocol", "meta"], "--protocol meta has no effect with"),
        ([model, "--text", tmp_path / "empty.txt"], "empty.txt is empty"),
        ([model, "--tasks", "boolq", "--data", rows, "--chat"], "has no chat template"),
        ([model, "--text", text, "--device", "tpu"], "device='tpu' is not known; use one of cpu"),
        ([tmp_path / "no", "--text", text], "no"),
    ):
        assert message in refused(capsys, *arguments)
    assert not (model / "evaluation.json").exists()


def test_a_folder_without_tokenizer_is_refused(capsys, models, rows, tmp_path):
    save_model(pipeline.open_language_model(models[0], EvaluationSettings(tasks=("a",))).model,
               tmp_path / "bare")  # fmt: skip
    message = refused(capsys, tmp_path / "bare", "--tasks", "boolq", "--data", rows)
    assert "give the tokenizer that the model was trained with: --tokenizer PATH" in message


def test_models_of_the_same_name_have_folders_of_their_own(capsys, models, rows, tmp_path):
    folders = [model / "model" for model in models]
    run(capsys, *folders, "--tasks", "boolq", "--data", rows, "--out", tmp_path / "out")
    made = sorted(path.parent.name for path in (tmp_path / "out").glob("*/evaluation.json"))
    assert made == ["a-model", "b-model"]


def test_a_damaged_file_of_results_is_not_overwritten(capsys, models, rows):
    path = models[0] / "evaluation.json"
    path.write_text("{", encoding="utf-8")
    assert "evaluation.json is not JSON" in refused(
        capsys, models[0], "--tasks", "boolq", "--data", rows
    )
    assert path.read_text(encoding="utf-8") == "{"


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(capsys, models, rows, tmp_path):
    for out, message in (
        (tmp_path / "a/config.yaml", "config.yaml is a file, not a folder; give another path"),
        ("/proc/evaluated", "--out=/proc/evaluated cannot be written ("),
    ):
        # Without the check, the missing rows would be the error.
        given = ("--tasks", "arc_easy", "--data", rows / "missing", "--out", out)
        assert message in refused(capsys, models[0], *given)


def test_number_types_have_folders_of_their_own(models, rows, tmp_path, capsys):
    given = [models[0], "--tasks", "arc_easy", "--data", rows, "--format", "json"]
    whole = json.loads(run(capsys, *given)[1])
    out = tmp_path / "bfloat16"
    code, text, _ = run(capsys, *given, "--dtype", "bfloat16", "--out", out)
    short = json.loads(text)
    assert (code, whole["dtype"], short["dtype"]) == (0, "float32", "bfloat16")
    assert short["model_hash"] == whole["model_hash"]
    one, other = (r["tasks"]["arc_easy"]["bits_per_byte"] for r in (whole, short))
    assert one != other and one == pytest.approx(other, rel=0.05)
    message = refused(capsys, *given, "--dtype", "float16")
    assert "has results in float32, and those in float16 would be mixed" in message
    assert "has results in bfloat16" in refused(capsys, *given, "--out", out)
    assert "dtype='int8' is not known; use" in refused(capsys, *given, "--dtype", "int8")
