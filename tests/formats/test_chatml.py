"""ChatML for models without a chat template: tokens, rows, ties, and transformers' tokens."""

import json

import pytest
import torch
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.checkpoint import save_model
from mobilellm.commands import import_
from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.layouts import read_conversation
from mobilellm.data.conversations.tokens import tokenize_conversation
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.formats.model_folder import open_model
from mobilellm.inference.end_tokens import end_tokens
from mobilellm.models import MobileLLM, ModelConfig

MESSAGES = [
    {"role": "user", "content": "the fox"}, {"role": "assistant", "content": "jumps over"},
    {"role": "user", "content": "the dog"},
]  # fmt: skip
WRITTEN = (
    "<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\njumps over<|im_end|>\n"
    "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n"
)


def tokenizer_of(kind, folder):
    if kind == "sentencepiece":
        # As `prepare_data` makes tokenizers.
        return make_tokenizer(
            folder, vocab_size=330, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=False,
        )  # fmt: skip
    # Without the tokens of ChatML, and with a begin-of-text token before each text.
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": True,
                "tokenizer_class": "PreTrainedTokenizerFast"}  # fmt: skip
    path = make_byte_level(folder, settings=settings)
    values = json.loads(path.read_text(encoding="utf-8"))
    values["added_tokens"] = values["added_tokens"][:1]
    vocabulary = values["model"]["vocab"]
    for name, new in (("<|im_start|>", "!!"), ("<|im_end|>", "??")):
        vocabulary[new] = vocabulary.pop(name)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def save(folder, path, *, is_tied, spare):
    torch.manual_seed(0)
    size = open_tokenizer(path).vocab_size + spare
    config = ModelConfig(
        vocab_size=size, hidden_size=16, intermediate_size=24, num_blocks=2, num_attention_heads=2,
        tie_word_embeddings=is_tied,
    )  # fmt: skip
    save_model(MobileLLM(config), folder, path)
    return folder


def convert(source, out, *arguments):
    with pytest.raises(SystemExit) as stop:
        import_.main([str(source), "--out", str(out), "--chat-template", "chatml", *arguments])
    return stop.value.code


@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
@pytest.mark.parametrize(("is_tied", "spare"), [(True, 0), (False, 0), (True, 1), (True, 8)])
def test_known_tokens_keep_their_logits_and_new_ones_get_the_mean(tmp_path, kind, is_tied, spare):
    path = tokenizer_of(kind, tmp_path / "tokenizer")
    before = save(tmp_path / "before", path, is_tied=is_tied, spare=spare)
    assert convert(before, tmp_path / "after") == 0
    old, _ = open_model(before)
    new, file = open_model(tmp_path / "after")
    tokenizer, used = open_tokenizer(file), open_tokenizer(path).vocab_size
    assert (tokenizer.find("<|im_start|>"), tokenizer.find("<|im_end|>")) == (used, used + 1)
    assert tokenizer.eos_id == new.config.eos_token_id == used + 1
    assert new.config.vocab_size == max(used + 2, old.config.vocab_size)
    assert new.config.tie_word_embeddings == is_tied and (new.head is None) == is_tied
    ids = torch.randint(used, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = old(ids).logits[..., :used], new(ids).logits
    assert torch.equal(other[..., :used], one)
    # The logit of a mean row is the mean of the logits.
    mean = one.mean(-1, keepdim=True).expand(-1, -1, 2)
    torch.testing.assert_close(other[..., used : used + 2], mean, rtol=1e-4, atol=1e-5)
    assert open_model(before)[0].config == old.config


@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
def test_conversations_are_written_trained_and_ended(tmp_path, kind):
    path = tokenizer_of(kind, tmp_path / "tokenizer")
    before = save(tmp_path / "before", path, is_tied=True, spare=0)
    assert convert(before, tmp_path / "after") == 0
    model, file = open_model(tmp_path / "after")
    tokenizer = open_tokenizer(file)
    begin = "" if kind == "sentencepiece" else "<|endoftext|>"
    assert tokenizer.apply_chat_template(MESSAGES) == begin + WRITTEN
    row = {"messages": MESSAGES[:2]}
    form = ChatFormat(tokenizer=tokenizer)
    (sequence,) = tokenize_conversation(read_conversation(row, "auto", "row"), form)
    trained = sequence.tokens[sequence.is_trained].tolist()
    assert tokenizer.decode(trained[:-1]).strip() == "jumps over"
    assert trained[-1] == end_tokens(model.config, tokenizer)[0] == tokenizer.find("<|im_end|>")
    # A user who writes the name of a token in a SentencePiece model writes text.
    if kind == "sentencepiece":
        assert tokenizer.find("<|im_end|>") not in tokenizer.encode("the <|im_end|>")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
def test_transformers_reads_the_exported_model_alike(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    path = tokenizer_of(kind, tmp_path / "tokenizer")
    before = save(tmp_path / "before", path, is_tied=True, spare=0)
    assert convert(before, tmp_path / "after") == 0
    model, file = open_model(tmp_path / "after")
    export_huggingface(model, tmp_path / "exported", file)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    ours = open_tokenizer(file)
    text = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert text == ours.apply_chat_template(MESSAGES)
    encoded = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert encoded["input_ids"] == ours.encode_rendered(text)
    assert theirs.eos_token_id == ours.eos_id


def test_what_cannot_have_it_is_refused(tmp_path, capsys):
    has_one = make_byte_level(tmp_path / "chat", template="{{ messages }}")
    as_text = make_tokenizer(tmp_path / "text", user_defined_symbols=["<|im_end|>"], vocab_size=70)
    for name, path, message in (
        ("a", has_one, "the model has a chat template already, which is used; leave out --chat-te"),
        ("b", as_text, "has <|im_end|> as ordinary text, but ChatML needs it as a control token"),
    ):
        assert convert(save(tmp_path / name, path, is_tied=True, spare=0), tmp_path / "out") == 2
        assert message in capsys.readouterr().err
    torch.manual_seed(0)
    bare = MobileLLM(ModelConfig(vocab_size=64, hidden_size=16, intermediate_size=24, num_blocks=1,
                                 num_attention_heads=2))  # fmt: skip
    save_model(bare, tmp_path / "bare")
    assert convert(tmp_path / "bare", tmp_path / "out") == 2
    assert "a chat template needs a tokenizer, which the model does not" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
