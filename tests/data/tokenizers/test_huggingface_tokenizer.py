import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenizers import make_byte_fallback, make_byte_level, make_tokenizer

from mobilellm.data.preparation.encoder import Batch, Encoder
from mobilellm.data.tokenizers import find_tokenizer_file, load_tokenizer, open_tokenizer
from mobilellm.data.tokenizers.byte_level import byte_level_alphabet

SOURCE = Path(random.__file__).read_text(encoding="utf-8")
TEXTS = [
    "plain words, and don't forget: it's 12.5 or 1234567",
    "tabs\t\tand\ttabs\r\nlines\n\n\n  indented",
    "  double  spaces   and a trailing one ",
    "日本語と中文 한국어 😀👩‍👩‍👧‍👦 e\u0301 ﬁ ½ \u00a0\u3000x",
    "nul \0 and \x1b",
    "naïve Ġ ▁ Ċ",
    "",
    " ",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_byte_level(tmp_path_factory.mktemp("made"), vocab_size=600, text=SOURCE)


@pytest.fixture(scope="module")
def tokenizer(path):
    return open_tokenizer(path)


@pytest.fixture(scope="module")
def reference(path):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(path.parent)


@pytest.mark.parametrize("text", [*TEXTS, "<|im_start|>user\nhi<|im_end|>\n", SOURCE[:5000]])
def test_tokens_are_those_of_transformers(tokenizer, reference, text):
    tokens = tokenizer.encode(text)
    assert tokens == reference.encode(text, add_special_tokens=False)
    assert tokenizer.encode_batch([text, text.encode()]) == [tokens, tokens]
    assert tokenizer.decode(tokens) == reference.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("text", [*TEXTS, SOURCE])
def test_token_bytes_sum_to_the_text(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.byte_counts(640)[tokens].sum() == len(text.encode())
    assert sum(map(tokenizer.bytes_of, tokens)) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_special_tokens(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (600, 1, 2)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.find("nothing")) == (2, None, None)
    assert tokenizer.byte_counts()[:3].tolist() == [0, 0, 0]
    assert [tokenizer.piece(token) for token in range(3)] == [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>"
    ]  # fmt: skip


def test_the_byte_level_alphabet():
    from tokenizers import pre_tokenizers

    alphabet = byte_level_alphabet()
    assert alphabet.keys() == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))


@pytest.mark.parametrize("limit", [50, 700])
def test_documents_are_encoded_word_by_word(tokenizer, limit):
    """Cut anywhere between words, a text has the tokens of the whole."""
    encoder = Encoder(tokenizer, "<u2", 2)
    assert encoder.by_word
    texts = [*map(str.encode, TEXTS), SOURCE.encode()]
    encoded = encoder.encode(Batch(texts, [True] * len(texts), [True] * len(texts)))
    expected = [[*tokenizer.encode(text), 2] for text in texts]
    assert encoded.tokens.tolist() == [token for tokens in expected for token in tokens]
    assert encoded.document_ends.tolist() == np.cumsum([len(e) for e in expected]).tolist()


def changed(path, folder, **changes):
    """A copy of a tokenizer.json with other values."""
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    return folder / "tokenizer.json"


def test_fingerprint_depends_on_what_changes_tokens(path, tokenizer, tmp_path):
    same = changed(path, tmp_path / "a", truncation=None, post_processor=None)
    assert open_tokenizer(same).fingerprint() == tokenizer.fingerprint()
    other = changed(path, tmp_path / "b", normalizer={"type": "Lowercase"})
    assert open_tokenizer(other).fingerprint() != tokenizer.fingerprint()


def test_a_text_is_never_cut(path, tokenizer, tmp_path):
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    copy = open_tokenizer(changed(path, tmp_path / "a", truncation=cut))
    assert copy.encode(SOURCE) == tokenizer.encode(SOURCE)


def test_a_token_that_crosses_words_is_found(path, tmp_path):
    values = json.loads(path.read_text(encoding="utf-8"))
    values["pre_tokenizer"]["use_regex"] = False
    vocabulary = values["model"]["vocab"] | {"aĠ": 600, "aĠb": 601}
    merges = [["a", "Ġ"], ["aĠ", "b"], *values["model"]["merges"]]
    model = values["model"] | {"vocab": vocabulary, "merges": merges}
    tokenizer = open_tokenizer(changed(path, tmp_path / "a", **(values | {"model": model})))
    encoder = Encoder(tokenizer, "<u2", None)
    assert not encoder.by_word
    encoded = encoder.encode(Batch([b"xa by"], [True], [True]))
    assert encoded.tokens.tolist() == tokenizer.encode("xa by")
    assert 601 in encoded.tokens.tolist()


@pytest.mark.parametrize(
    ("settings", "processor", "expected"),
    [
        ({}, None, False),
        ({}, "<|im_start|>", True),
        ({"add_bos_token": True}, None, True),
        ({"add_bos_token": False}, "<|im_start|>", False),
    ],
)
def test_whether_text_begins_with_a_token(path, settings, processor, expected, tmp_path):
    names = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    added = {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
             "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}],
             "special_tokens": {"<|im_start|>": {
                 "id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}}  # fmt: skip
    copy = changed(path, tmp_path / "a", post_processor=added if processor else None)
    text = json.dumps(names | settings)
    (copy.parent / "tokenizer_config.json").write_text(text, encoding="utf-8")
    tokenizer = open_tokenizer(copy)
    assert (tokenizer.adds_bos, tokenizer.eos_id) == (expected, 2)
    assert tokenizer.encode("hello")[:1] != [1]


def test_special_tokens_of_the_model_if_the_tokenizer_names_none(path, tmp_path):
    copy = changed(path, tmp_path / "a")
    assert open_tokenizer(copy).eos_id is None
    ids = {"eos_token_id": [2, 0], "bos_token_id": 1}
    (copy.parent / "config.json").write_text(json.dumps(ids), encoding="utf-8")
    tokenizer = open_tokenizer(copy)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    # The copies of its files name them without the model's configuration.
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    again = open_tokenizer(tmp_path / "tokenizer.json")
    assert (again.bos_id, again.eos_id) == (1, 2)
    assert list(tokenizer.files()) == ["tokenizer.json", "tokenizer_config.json"]


def test_bytes_of_tokens_that_come_from_sentencepiece(tmp_path):
    """As in the tokenizer.json of Llama: spaces are U+2581, and rare characters are bytes."""
    tokenizer = open_tokenizer(make_byte_fallback(tmp_path))
    text = "a b  aé日 a"
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_counts()[tokens].sum() == len(text.encode()) + 1  # the space before it
    assert (tokenizer.unk_id, tokenizer.adds_space) == (0, True)
    assert tokenizer.byte_counts()[:3].tolist() == [0, 0, 0]
    encoder = Encoder(tokenizer, "<u2", None)
    assert encoder.by_word
    text = "b a a  b\na b"
    encoded = encoder.encode(Batch([text.encode()], [True], [True]))
    assert encoded.tokens.tolist() == tokenizer.encode(text)


def test_a_kind_of_token_whose_bytes_are_not_known(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).save(
        str(tmp_path / "tokenizer.json")
    )
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer.json has the decoder None, which does not"):
        tokenizer.byte_counts()


def test_more_tokens_than_the_model_has_rows(path):
    assert load_tokenizer(path, 640).vocab_size == 600
    with pytest.raises(
        ValueError, match=r"has 600 tokens, more than the model's vocab_size=512; use model.vocab"
    ):
        load_tokenizer(path, 512)


def test_of_two_tokenizers_the_one_with_added_tokens_is_used(path, tmp_path):
    folder = tmp_path / "both"
    sentencepiece = make_tokenizer(folder)
    assert find_tokenizer_file(folder) is None
    sentencepiece.rename(folder / "tokenizer.model")
    assert find_tokenizer_file(folder) == folder / "tokenizer.model"
    changed(path, folder)
    assert find_tokenizer_file(folder) == folder / "tokenizer.json"
    large = make_tokenizer(tmp_path / "large", vocab_size=300, byte_fallback=True)
    large.rename(folder / "tokenizer.model")
    make_byte_level(folder, vocab_size=280)
    assert find_tokenizer_file(folder) == folder / "tokenizer.model"
    (folder / "tokenizer.model").write_bytes(b"aGk= 0\nYQ== 1\n")
    assert find_tokenizer_file(folder) == folder / "tokenizer.json"


def test_settings_that_cannot_be_read(path, tmp_path):
    copy = changed(path, tmp_path / "a")
    (copy.parent / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config.json is not valid JSON \(.*fetch it"):
        open_tokenizer(copy)
    (copy.parent / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config.json does not contain a JSON object"):
        open_tokenizer(copy)
    (copy.parent / "tokenizer_config.json").write_text('{"chat_template": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"chat_template in .* must be text, or a list with"):
        open_tokenizer(copy)
