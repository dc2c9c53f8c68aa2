"""Rows of questions, answers and reasons: from files to prompted windows."""

import json

import numpy as np
import pytest
from question_rows import config_for, prepare, rows, write
from sentencepiece import SentencePieceProcessor

from mobilellm.data import HubRationaleData, open_prepared, prepare_data
from mobilellm.data.overview import overview
from mobilellm.data.sources.rationales import TASKS

LENGTH = 256


def decoder(prepared):
    return SentencePieceProcessor(model_file=str(prepared.tokenizer_path))


def answers(prepared, split):
    """Per task the texts that are trained on, and all that the model sees before them."""
    processor, found = decoder(prepared), {task: [] for task in TASKS}
    windows = prepared.windows(split, LENGTH)
    for window in (windows[index] for index in range(len(windows))):
        for number in set(window["document_ids"].tolist()):
            mine = window["document_ids"] == number
            asked = window["labels"][mine] != -100
            if asked.any():
                labels = window["labels"][mine][asked].tolist()
                assert labels[-1] == prepared.eos_token_id
                task = TASKS[int(window["tasks"][mine][asked][0]) - 1]
                first = int(asked.nonzero()[0, 0])
                prompt = window["input_ids"][mine][: first + 1].tolist()
                found[task].append((processor.decode(prompt), processor.decode(labels)))
    return {task: sorted(texts) for task, texts in found.items()}


def expected(made, task):
    column, prompt = {"label": ("answer", "predict: "), "rationale": ("why", "explain: ")}[task]
    return sorted(
        (
            prompt + row["question"] + "\nAnswer choices:\n"
            + "\n".join(f"({'abc'[i]}) {choice}" for i, choice in enumerate(row["choices"])) + "\n",
            row[column],
        )
        for row in made
    )  # fmt: skip


def test_labels_cover_the_targets_and_nothing_of_the_prompts(tmp_path):
    prepared = prepare(tmp_path)
    for task in TASKS:
        assert answers(prepared, "train")[task] == expected(rows(), task)
    found = answers(prepared, "validation")
    assert found == {"label": expected(rows(80)[60:], "label"), "rationale": []}


def test_labels_alone_come_from_the_same_folder(tmp_path):
    both = prepare(tmp_path)
    alone = prepare(tmp_path, tasks=["label"])
    assert alone.manifest == both.manifest
    assert answers(alone, "train") == {"label": expected(rows(), "label"), "rationale": []}
    assert answers(alone, "validation") == answers(both, "validation")


def test_rows_without_a_column_of_reasons_serve_for_labels(tmp_path):
    made = [{k: v for k, v in row.items() if k != "why"} for row in rows()]
    prepared = prepare(tmp_path, made, rationale_column=None, tasks=["label"], validation=None)
    found = [*answers(prepared, "train")["label"], *answers(prepared, "validation")["label"]]
    assert sorted(found) == expected(rows(), "label")


def test_held_out_rows_go_one_way_whole(tmp_path):
    prepared = prepare(tmp_path, rows(60) * 2, validation=None, held_out=0.3)
    train, validation = (answers(prepared, split) for split in ("train", "validation"))
    assert len(train["label"]) == len(train["rationale"]) == 120 - len(validation["label"])
    assert 10 < len(validation["label"]) < 60
    assert not {prompt for prompt, _ in train["label"]} & {p for p, _ in validation["label"]}


def test_questions_are_the_validation_rows(tmp_path):
    prepared = prepare(tmp_path)
    processor, made = decoder(prepared), rows(80)[60:]
    questions = prepared.questions()
    prompts = dict(expected(made, "label"))
    assert len(questions) == len(made)
    for question, row in zip(questions, made, strict=True):
        assert prompts[processor.decode(question.prompt.tolist())] == row["answer"]
        assert processor.decode(question.label.tolist()) == row["answer"]
        assert [processor.decode(choice.tolist()) for choice in question.choices] == row["choices"]
        assert {int(tokens[-1]) for tokens in (question.label, *question.choices)} == {2}
    some = prepared.questions(4)
    assert [q.prompt.tolist() for q in some] == [q.prompt.tolist() for q in questions[::5]]
    assert len(prepared.questions(1000)) == 20


def test_questions_without_choices(tmp_path):
    questions = prepare(tmp_path, rows(choices=False)).questions()
    assert {question.choices for question in questions} == {()}


def test_a_finished_folder_is_reused_and_refused_for_other_prompts(tmp_path):
    first = prepare(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in first.dir.rglob("*") if path.is_file()}
    assert prepare(tmp_path).hashes == first.hashes
    assert times.keys() == {path for path in first.dir.rglob("*") if path.is_file()}
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    with pytest.raises(ValueError, match=r"prepared from different inputs: data.prompts.label was "
                       r"predict: , now answer: "):  # fmt: skip
        prepare(tmp_path, label_prompt="answer: ")
    with pytest.raises(ValueError, match=r"data.train: .*train.jsonl has different contents"):
        prepare(tmp_path, rows(61))


def test_preparing_again_gives_the_same_tokens_also_in_small_shards(tmp_path):
    once = prepare(tmp_path)
    small = prepare_data(
        config_for(tmp_path, dir=str(tmp_path / "small")), progress=False, shard_tokens=500
    )
    assert small.hashes == once.hashes
    assert small.tokens("train").num_shards > 3
    np.testing.assert_array_equal(small.bounds("train"), once.bounds("train"))
    assert answers(small, "train") == answers(once, "train")


def test_what_was_cut_short_is_gone_on_with(tmp_path):
    """Without its last shards and the manifest, a folder is completed to what it was."""
    options = {"dir": str(tmp_path / "cut")}
    whole = prepare_data(config_for(tmp_path, **options), progress=False, shard_tokens=500)
    kept = sorted((whole.dir / "train").glob("*.tokens"))
    for path in (*kept[2:], whole.dir / "manifest.json"):
        path.unlink()
    before = kept[0].stat().st_mtime_ns
    again = prepare_data(config_for(tmp_path, **options), progress=False, shard_tokens=500)
    assert again.hashes == whole.hashes
    assert kept[0].stat().st_mtime_ns == before
    np.testing.assert_array_equal(again.bounds("train"), whole.bounds("train"))


def test_the_manifest_counts_rows_and_baselines_are_of_labels(tmp_path):
    prepared = prepare(tmp_path)
    sizes = prepared.manifest["splits"]
    assert (sizes["train"]["documents"], sizes["validation"]["documents"]) == (60, 20)
    texts = [text for task in TASKS for pair in expected(rows(), task) for text in pair]
    assert sizes["train"]["text_bytes"] == sum(map(len, texts)) == sizes["train"]["token_bytes"]
    labels = [q.label for q in prepared.questions()]
    counts = np.ones(300)
    for window in map(prepared.windows("train", LENGTH).__getitem__, range(3)):
        assert {"input_ids", "labels", "document_ids", "tasks"} == window.keys()
    bounds = prepared.bounds("train")[::2]
    for _, target, end in bounds.tolist():
        np.add.at(counts, prepared.tokens("train")[target:end], 1)
    stream = np.concatenate(labels)[1:]
    unigram = -np.log(counts / counts.sum())[stream].mean()
    assert prepared.baselines["unigram_nats_per_token"] == pytest.approx(unigram)
    assert any("60" in line for line in overview(prepared))


def test_a_given_tokenizer_is_used(tmp_path):
    (tmp_path / "first").mkdir()
    first = prepare(tmp_path / "first")
    other = prepare(tmp_path, rows(70), tokenizer=str(first.tokenizer_path))
    assert other.hashes["tokenizer"] == first.hashes["tokenizer"]
    assert other.manifest["tokenizer_sample_bytes"] is None


def test_a_dataset_as_datasets_saves_it_gives_the_same(tmp_path):
    from datasets import Dataset

    folder = tmp_path / "saved"
    for split, made in (("train", rows()), ("test", rows(80)[60:])):
        Dataset.from_list(made).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    for streaming in (True, False):
        config = HubRationaleData(
            dataset_name=str(folder), validation_split="test", streaming=streaming,
            input_column="question", choices_column="choices", label_column="answer",
            rationale_column="why", vocab_size=300, dir=str(tmp_path / f"hub-{streaming}"),
        )  # fmt: skip
        prepared = prepare_data(config, progress=False)
        assert prepared.hashes == prepare(tmp_path).hashes
        assert open_prepared(config).tasks == TASKS
    (tmp_path / "faulty").mkdir()
    Dataset.from_list([*rows(3), rows(1)[0] | {"why": " "}]).to_parquet(
        tmp_path / "faulty/a.parquet"
    )
    config = HubRationaleData(
        dataset_name=str(tmp_path / "faulty"), input_column="question", label_column="answer",
        rationale_column="why", vocab_size=300, dir=str(tmp_path / "never"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"row 3 of .*faulty train has an empty 'why'"):
        prepare_data(config, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"why": None}, r"train.jsonl line 3 holds NoneType in column 'why', which must be text; "
                        r"set data.rationale_column to another"),
        ({"why": "  "}, r"train.jsonl line 3 has an empty 'why'; fill it in, or remove the row"),
        ({"question": ""}, r"line 3 has an empty 'question'"),
        ({"answer": "neither"}, r"line 3: the answer 'neither' in column 'answer' is not among "
                                r"the choices '\w+', '\w+', '\w+'; correct or remove the row"),
        ({"choices": ["one"]}, r"line 3 has \['one'\] as choices, which must be a list of 2 to 26"),
        ({"choices": "one"}, r"line 3 has 'one' as choices"),
        ({"choices": ["one", 2]}, r"line 3 has \['one', 2\] as choices"),
        ({"answer": "half a pair \ud800"}, r"line 3 holds the lone surrogate"),
    ],
)  # fmt: skip
def test_faulty_rows_are_refused_with_their_place(tmp_path, change, message):
    made = rows()
    made[2] = made[2] | change
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, made)


@pytest.mark.parametrize("field", ["input", "choices", "label", "rationale"])
def test_a_missing_column_is_named_with_its_place_and_the_others(tmp_path, field):
    message = (
        rf"train.jsonl line 1 has no column 'absent'; set data.{field}_column to one of question, "
        "answer, why, choices"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, **{f"{field}_column": "absent"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["labels"]}, "must be a list in which each item is label or rationale"),
        ({"tasks": ["rationale"]}, r"data.tasks=\[rationale\] must contain label"),
        ({"tasks": ["label", "label"]}, r"data.tasks=\[label,label\] must contain label, and no"),
        ({"rationale_column": None}, r"data.rationale_column=null: the rows have no rationales"),
        ({"label_prompt": "explain: "}, r"data.label_prompt='explain: ' must be text that differs"),
        ({"label_prompt": ""}, r"data.label_prompt='' must be text"),
        ({"label_column": "why"}, r"column 'why' is used for two fields of data"),
        ({"add_eos": False}, r"data.add_eos=False has no effect on prompted sequences"),
        ({"max_megabytes": 1.0}, r"data.max_megabytes=1.0 has no effect"),
    ],
)  # fmt: skip
def test_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config_for(tmp_path, **options)


def test_a_sequence_longer_than_a_window_is_refused_with_the_length_that_is_enough(tmp_path):
    made = rows()
    made[7] |= {"why": "This is long. " * 100}
    prepared = prepare(tmp_path, made)
    message = (
        r"sequence_length=256 is shorter than 1 of 120 prompted sequences, which are never cut"
    )
    with pytest.raises(ValueError, match=message):
        prepared.windows("train", LENGTH)
    # Where the rationale is not trained, it need not fit.
    assert len(prepare(tmp_path, made, tasks=["label"]).windows("train", LENGTH)) > 1


def test_a_split_without_rows_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"there is no text in data.validation"):
        prepare(tmp_path, validation=str(tmp_path / "empty.jsonl"))


def test_rows_are_documents_for_whoever_reads_them_as_text(tmp_path):
    config = config_for(tmp_path)
    texts = [chunk.content.decode() for chunk in config.chunks("validation")]
    both = [expected(rows(80)[60:], task) for task in TASKS]
    assert sorted(texts) == sorted(prompt + target for pairs in both for prompt, target in pairs)


def test_files_are_read_as_jsonl_is(tmp_path):
    write(tmp_path / "train.jsonl", rows())
    config = config_for(tmp_path)
    (tmp_path / "train.jsonl").write_text(json.dumps(rows(1)[0]) + "\n{\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train.jsonl line 2 is not JSON"):
        prepare_data(config, progress=False)
