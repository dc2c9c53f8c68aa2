"""Tokenizers that go out in GGUF files: llama.cpp splits text as they do, or they are refused."""

import json

import pytest
from test_gguf import make_model
from test_gguf_export import LOSSLESS
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.data.tokenizers.byte_level_training import train_byte_level
from mobilellm.data.tokenizers.sentencepiece_training import train_sentencepiece
from mobilellm.evaluation.engines import LlamaCpp
from mobilellm.formats.gguf import export_gguf, import_gguf
from mobilellm.formats.gguf.splitting import name_of_splitting, splitter

gguf = pytest.importorskip("gguf")
HARD = ["日本語 é ñ ½", "  two  spaces ", "tab\there 12345 3.14", "don't we'LL", "a\n\n\nb \n"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    return make_byte_level(folder, template="{{ messages[0].content }}")


def test_text_becomes_the_same_tokens(corpus, tmp_path):
    """Tokenizers of both kinds, trained as the project trains them, on lines of real text."""
    pytest.importorskip("xllamacpp")
    text = (corpus / "argparse.txt").read_text(encoding="utf-8")[:60_000]
    lines = [line for line in text.split("\n") if line.strip()][::12]
    lines += HARD
    parts = [line.encode() for line in text.split("\n")]
    files = train_byte_level(parts, 400)
    contents = {
        "words": {"tokenizer.model": train_sentencepiece(parts, 500)},
        "bytes": files,
        **{name: with_splitting(files, name) for name in ("llama-bpe", "qwen2", "dbrx")},
    }
    for name, own in contents.items():
        for file, content in own.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        tokenizer = open_tokenizer(tmp_path / name / next(iter(own)))
        model, path = make_model(vocab_size=512), tmp_path / f"{name}.gguf"
        export_gguf(model, path, tokenizer.path)
        _, back = import_gguf(path)
        (tmp_path / "back" / name).mkdir(parents=True)
        for file, content in back.items():
            (tmp_path / "back" / name / file).write_bytes(content)
        again = open_tokenizer(tmp_path / "back" / name / next(iter(back)))
        assert again.vocab_size == tokenizer.vocab_size < 512
        with LlamaCpp(path) as theirs:
            for line in lines:
                wanted = tokenizer.encode(line)
                assert theirs.tokenize(line) == wanted, (name, line)
                assert again.encode(line) == wanted, (name, line)


def with_splitting(files, name):
    """A trained tokenizer, changed to split text into words in another way."""

    class Named:
        @staticmethod
        def get(*_):
            return name

    pre, ignores = splitter(Named())
    values = json.loads(files["tokenizer.json"])
    values["pre_tokenizer"] = json.loads(pre.__getstate__())
    values["model"]["ignore_merges"] = ignores
    assert name_of_splitting(values) == name
    return files | {"tokenizer.json": json.dumps(values).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}},
         r"splits text into words in a way that has no known name .*Whitespace.*--pre-tokenizer"),
        ({"normalizer": {"type": "Lowercase"}}, "has the normalizer Lowercase, with which llama"),
        ({"decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}},
         "has the decoder Metaspace, with which llama.cpp would split text into other tokens; use"),
    ],
)  # fmt: skip
def test_another_way_of_splitting_is_refused(change, message, byte_level, tmp_path):
    values = json.loads(byte_level.read_text(encoding="utf-8")) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        export_gguf(make_model(), tmp_path / "m.gguf", tmp_path / "tokenizer.json")
    assert not (tmp_path / "m.gguf").exists()
    if "pre_tokenizer" in change:
        options = {"pre_tokenizer": "smollm"}
        export_gguf(make_model(), tmp_path / "m.gguf", tmp_path / "tokenizer.json", **options)
        fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
        assert fields["tokenizer.ggml.pre"].contents() == "smollm"


def test_sentencepiece_models_that_llama_cpp_reads_otherwise(tmp_path, caplog):
    unigram = make_tokenizer(tmp_path / "u", model_type="unigram", **LOSSLESS, vocab_size=290)
    with pytest.raises(ValueError, match=r"has a unigram model, with which llama.cpp would split"):
        export_gguf(make_model(), tmp_path / "m.gguf", unigram)
    no_bytes = make_tokenizer(tmp_path / "n")
    with pytest.raises(ValueError, match=r"has no tokens for single bytes \(byte_fallback\), with"):
        export_gguf(make_model(), tmp_path / "m.gguf", no_bytes)
    changing = make_tokenizer(tmp_path / "c", byte_fallback=True, vocab_size=300)
    with pytest.raises(ValueError, match="--pre-tokenizer=gpt-2 has no effect on a Sentence"):
        export_gguf(make_model(), tmp_path / "m.gguf", changing, pre_tokenizer="gpt-2")
    export_gguf(make_model(), tmp_path / "m.gguf", changing)
    assert "normalises characters (nmt_nfkc), which llama.cpp does not do" in caplog.text
    assert "removes spaces at the ends of a text and beside other spaces, which" in caplog.text


def test_the_tokenizers_settings_go_out(byte_level, tmp_path):
    model = make_model(vocab_size=320, eos_token_id=9)
    export_gguf(model, tmp_path / "m.gguf", byte_level, name="tiny")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.name"] == "tiny"
    assert fields["llama.vocab_size"] == len(fields["tokenizer.ggml.tokens"]) == 320
    assert fields["tokenizer.ggml.tokens"][-1] == "[PAD319]"
    assert fields["tokenizer.ggml.token_type"][0] == 3
    assert fields["tokenizer.ggml.token_type"][-1] == 5
    assert fields["tokenizer.ggml.eos_token_id"] == 2, "the tokenizer's"
    assert fields["tokenizer.ggml.bos_token_id"] == 1
    assert fields["tokenizer.ggml.padding_token_id"] == 2
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == "{{ messages[0].content }}"
