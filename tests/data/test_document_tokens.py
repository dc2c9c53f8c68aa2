import json
from pathlib import Path

import pytest
from preparing import config_for, prepare
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data import RationaleData, TokenizedData
from mobilellm.data.document_tokens import document_tokens
from mobilellm.data.overview import overview
from mobilellm.data.tokenizers import open_tokenizer

TWO = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
ONE = {"bos_token": "<|im_end|>", "eos_token": "<|im_end|>"}
BEGIN, BOTH = {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}


@pytest.mark.parametrize(
    ("settings", "given", "expected"),
    [
        (TWO, {}, (None, 2, True)),
        (TWO | BEGIN, {}, (1, 2, False)),
        (TWO | BOTH, {}, (1, 2, True)),
        (TWO | {"add_bos_token": False, "add_eos_token": False}, {}, (None, 2, True)),
        (TWO, {"add_bos": True}, (1, 2, True)),
        (TWO | BEGIN, {"add_eos": True}, (1, 2, True)),
        (TWO | BEGIN, {"add_bos": False}, (None, 2, True)),
        (TWO | BEGIN, {"add_bos": False, "add_eos": False}, (None, 2, False)),
        # A token that is both: documents begin after the end of another.
        (ONE | BEGIN, {}, (None, 2, True)),
        (ONE, {"add_bos": True, "add_eos": False}, (2, 2, False)),
        ({"bos_token": "<|im_start|>"}, {"add_eos": False}, (None, -1, False)),
    ],
)
def test_tokens_around_documents(settings, given, expected, tmp_path):
    path = make_byte_level(tmp_path / "made", settings=settings)
    config = config_for(tmp_path, tokenizer=str(path), **given)
    around = document_tokens(config)
    assert (around.bos_token_id, around.eos_token_id, around.adds_eos) == expected


def test_without_settings_only_the_end_is_added(tmp_path):
    path = make_tokenizer(tmp_path / "words")
    for tokenizer in (None, str(path)):
        around = document_tokens(config_for(tmp_path, tokenizer=tokenizer))
        assert (around.bos_token_id, around.eos_token_id, around.adds_eos) == (None, 2, True)
    around = document_tokens(config_for(tmp_path, tokenizer_kind="byte_level"))
    assert (around.bos_token_id, around.eos_token_id, around.adds_eos) == (None, 0, True)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (ONE, {"add_bos": True, "add_eos": True}, "data.add_bos=true would put token 2 twice betw"),
        ({"eos_token": "<|im_end|>"}, {"add_bos": True}, "has no begin-of-text token; leave data."),
        ({"bos_token": "<|im_start|>"}, {}, "has no end-of-text token; use another, or data.add_e"),
        (TWO, {"add_eos": False, "document_mask": True}, "data.document_mask=true finds document"),
    ],
)
def test_tokens_that_do_not_exist(settings, given, message, tmp_path):
    path = make_byte_level(tmp_path / "made", settings=settings)
    with pytest.raises(ValueError, match=message):
        document_tokens(config_for(tmp_path, tokenizer=str(path), **given))


def test_token_ids_have_their_own_begin(tmp_path):
    config = TokenizedData(train="x", vocab_size=300, add_bos=True)
    with pytest.raises(
        ValueError, match=r"data.add_bos=true has no effect on token ids, which con"
    ):
        document_tokens(config)


def test_a_new_tokenizer_is_named_only_where_one_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer_kind=byte_level is the kind of a new tokeniz"):
        config_for(tmp_path, tokenizer="x", tokenizer_kind="byte_level")
    with pytest.raises(ValueError, match=r"has no effect on token ids; leave out one"):
        TokenizedData(train="x", vocab_size=300, tokenizer_kind="byte_level")
    with pytest.raises(ValueError, match=r"tokenizer_kind='words' must be sentencepiece or byte_l"):
        config_for(tmp_path, tokenizer_kind="words")
    with pytest.raises(ValueError, match=r"data.vocab_size=257 is too small .*: 1 special token "):
        config_for(tmp_path, tokenizer_kind="byte_level", vocab_size=257)


@pytest.fixture
def texts(tmp_path):
    """Three documents for each split, one longer than a chunk."""
    folder = tmp_path / "corpus"
    words = "It's 12 o'clock.\n\n  The fox runs, \tand  the dog sleeps; 日本 don't "
    texts = {"train": ["the fox", words * 2000, "a  b "], "validation": ["x", "y z", words]}
    for split, documents in texts.items():
        (folder / split).mkdir(parents=True)
        for number, text in enumerate(documents):
            (folder / split / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder, texts


@pytest.mark.parametrize("settings", [TWO, TWO | BEGIN, TWO | BOTH])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_stream_is_that_of_whole_documents(settings, workers, texts, tmp_path):
    if workers == 2 and settings != TWO | BOTH:
        pytest.skip("one kind is enough for processes")
    folder, documents = texts
    path = make_byte_level(tmp_path / "made", settings=settings, text=" ".join(documents["train"]))
    config = config_for(folder, tokenizer=str(path), vocab_size=320, workers=workers)
    prepared = prepare(config)
    tokenizer = open_tokenizer(path)
    begin = [1] if settings.get("add_bos_token") else []
    end = [2] if not begin or settings.get("add_eos_token") else []
    for split in ("train", "validation"):
        expected = [
            token for text in documents[split] for token in [*begin, *tokenizer.encode(text), *end]
        ]
        assert prepared.tokens(split)[:].tolist() == expected
        assert prepared.count_bytes(prepared.tokens(split)[:]) == sum(
            len(text.encode()) for text in documents[split]
        )
    assert prepared.bos_token_id == (begin[0] if begin else None)
    assert prepared.adds_eos == bool(end)
    assert prepared.tokenizer_path == prepared.dir / "tokenizer.json"
    assert prepared.hashes["tokenizer"] == tokenizer.fingerprint()
    assert prepared.dir.name.startswith("train-bos-") == bool(begin)
    lines = "\n".join(overview(prepared))
    assert ("documents   begin with token 1 and " in lines) == bool(begin)
    assert "U+2581" not in lines
    assert "changes the text" not in lines
    assert prepare(config).dir == prepared.dir
    # Documents are found by either of the two tokens.
    masked = prepared.windows("validation", 4, document_mask=True)
    starts = {0, *_starts(documents["validation"], tokenizer, begin, end)}
    number = -1
    for position in range(len(masked) * 4):
        item, at = masked[position // 4], position % 4
        number += position in starts
        first = item["document_ids"][0]
        if at:
            same = item["document_ids"][at] == item["document_ids"][at - 1]
            assert same == (position not in starts)
        assert (item["labels"][at] == -100) == (position + 1 in starts)
        assert first == 0


def _starts(documents, tokenizer, begin, end):
    at = 0
    for text in documents:
        yield at
        at += len([*begin, *tokenizer.encode(text), *end])


def test_data_of_other_begins_are_kept_apart(texts, tmp_path):
    folder, _ = texts
    path = make_byte_level(tmp_path / "made", settings=TWO)
    plain = prepare(config_for(folder, tokenizer=str(path), name="same"))
    begun = prepare(config_for(folder, tokenizer=str(path), name="same", add_bos=True))
    assert plain.dir != begun.dir
    assert plain.hashes["train"] != begun.hashes["train"]
    assert plain.hashes["data"] == begun.hashes["data"]
    assert "add_bos" not in plain.manifest["inputs"]["options"]
    assert begun.manifest["inputs"]["options"]["add_bos"] is True


def test_a_new_byte_level_tokenizer(texts):
    folder, documents = texts
    config = config_for(folder, tokenizer_kind="byte_level", vocab_size=290)
    prepared = prepare(config)
    assert prepared.dir.name == "train-byte_level-290"
    tokenizer = open_tokenizer(Path(str(prepared.tokenizer_path)))
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (290, 0, 0)
    assert tokenizer.adds_bos is True
    expected = [t for text in documents["train"] for t in [*tokenizer.encode(text), 0]]
    assert prepared.tokens("train")[:].tolist() == expected
    again = prepare(config_for(folder, tokenizer=str(prepared.tokenizer_path), vocab_size=300))
    assert again.hashes == prepared.hashes


def test_prompts_begin_too(tmp_path):
    rows = [{"input": f"say {n}", "label": "yes", "rationale": "so"} for n in range(4)]
    for split in ("train", "validation"):
        text = "\n".join(map(json.dumps, rows))
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    path = make_byte_level(tmp_path / "made", settings=TWO | BEGIN)
    prepared = prepare(
        RationaleData(
            train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "validation.jsonl"),
            tokenizer=str(path), vocab_size=300, prepared_dir=str(tmp_path / "prepared"),
        )
    )  # fmt: skip
    tokenizer = open_tokenizer(path)
    expected = []
    for row in rows:
        for prompt, target in (("predict: ", "label"), ("explain: ", "rationale")):
            expected += [1, *tokenizer.encode(f"{prompt}{row['input']}\n")]
            expected += [*tokenizer.encode(row[target]), 2]
    assert prepared.tokens("train")[:].tolist() == expected
