import random
from pathlib import Path

import pytest
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.data.tokenizers.byte_level_training import train_byte_level
from mobilellm.data.tokenizers.stated_begin import files_of_separated

SOURCE = Path(random.__file__).read_bytes()


def write(files, folder):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return open_tokenizer(folder / next(iter(files)))


def test_every_text_can_be_written(tmp_path):
    tokenizer = write(train_byte_level([SOURCE], 500), tmp_path / "a")
    assert (tokenizer.vocab_size, tokenizer.unk_id) == (500, None)
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x11000), 0x1F600)))
    for text in (everything, "  two\r\n\n\ttabs 1234 \u2581"):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokenizer.byte_counts()[tokens].sum() == len(text.encode())
    assert len(tokenizer.encode("1234")) == 4
    assert len(tokenizer.encode(" random")) < 7


def test_training_is_deterministic():
    assert train_byte_level([SOURCE], 400) == train_byte_level([SOURCE], 400)


def test_text_that_is_too_small():
    with pytest.raises(
        ValueError, match=r"=1000 is too large for the 12 B .* use model.vocab_size=\d+ or less, or"
    ):
        train_byte_level([b"hello world "], 1000)


def test_transformers_begins_a_text_with_its_token(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = write(train_byte_level([SOURCE], 400), tmp_path / "a")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    assert reference.encode("def f():") == [0, *tokenizer.encode("def f():")]
    assert (reference.eos_token_id, reference.bos_token_id) == (0, 0)


def test_a_model_of_separated_documents_begins_after_their_end(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = open_tokenizer(make_byte_level(tmp_path / "made", template="{{ messages }}"))
    assert (made.bos_id, made.adds_bos) == (1, False)
    tokenizer = write(files_of_separated(made), tmp_path / "a")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (2, 2, True)
    assert tokenizer.fingerprint() == made.fingerprint()
    assert tokenizer.settings.template == "{{ messages }}"
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    assert reference.encode("the fox") == [2, *made.encode("the fox")]
    assert files_of_separated(tokenizer) == tokenizer.files()
    words = open_tokenizer(make_tokenizer(tmp_path / "words"))
    assert list(files_of_separated(words)) == ["tokenizer.model"]
