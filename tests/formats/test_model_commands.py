import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_tokenizers import T5, TEXT, make_constant_model, make_tokenizer

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import save_model
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.formats.model_folder import open_model
from mobilellm.inference.loaded_model import load
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.saved_config import read_config
from mobilellm.units import bytes_text

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run_script(tmp_path, monkeypatch, capsys):
    """Run a script in this process from another folder; give exit code, output and errors."""

    def run(name, *arguments):
        script = str(SCRIPTS / f"{name}.py")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(script, run_name="__main__")
        return stop.value.code, *capsys.readouterr()

    return run


def test_out_and_in_again_writes_the_same_text(run_script, saved_run, tmp_path):
    llama, back = tmp_path / "llama", tmp_path / "back"
    out = run_script("export", saved_run, "--format", "huggingface", "--out", llama)
    stored = count_parameters(read_config(saved_run / "model")).stored
    size = (llama / "model.safetensors").stat().st_size
    assert out == (0, f"{llama}: 2 layers, {stored:,} parameters, {bytes_text(size)} on disk\n", "")
    assert run_script("import", llama, "--out", back) == (0, f"{back}: 5,456 parameters\n", "")
    sampled = ("--prompt", "the", "--temperature", "1.5", "--top-k", "20", "--seed", "0")
    code, written, _ = run_script("generate", saved_run, *sampled)
    assert code == 0
    assert written.startswith("the")
    for source in (saved_run / "model", llama, back):
        settings = {"temperature": 1.5, "top_k": 20, "seed": 0}
        assert load(source).generate("the", 100, **settings) + "\n" == written


@pytest.mark.parametrize("bits", [8, None])
def test_an_export_says_that_inputs_are_no_longer_rounded(bits, run_script, tmp_path):
    rounded = {"quantized": {"bits": 8, "activation_bits": bits}}
    config = ModelConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_blocks=1, num_attention_heads=2,
        compressed_layers={"blocks.0.feed_forward.up_proj": rounded},
    )  # fmt: skip
    save_model(MobileLLM(config), tmp_path / "model")
    code, printed, _ = run_script(
        "export", tmp_path / "model", "--format", "huggingface", "--out", tmp_path / "out"
    )
    assert code == 0
    note = "the model rounds the inputs of 1 of its matrices to 8 bits; the export does not"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert (note in printed, f"- {note}" in card) == (bits == 8, bits == 8)


@pytest.mark.parametrize("begin", [1, 2])
@pytest.mark.parametrize("prefix", [True, False])
def test_transformers_splits_text_as_we_do(tmp_path, prefix, begin):
    transformers = pytest.importorskip("transformers")
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    (tmp_path / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "words"), vocab_size=330,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, minloglevel=2,
    )  # fmt: skip
    config = ModelConfig(
        vocab_size=330, hidden_size=8, intermediate_size=8, num_blocks=1, num_attention_heads=1,
        bos_token_id=begin,
    )  # fmt: skip
    export_huggingface(MobileLLM(config), tmp_path / "out", tmp_path / "words.model")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = SentencePieceProcessor(model_file=str(tmp_path / "words.model"))
    for text in ("the dog", "a\n  b", "fox é 日本 ", "\n\n 12"):
        assert theirs(text).input_ids == [begin, *ours.encode(text)]
    assert (theirs.bos_token_id, theirs.eos_token_id) == (begin, 2)


def test_a_wrong_tokenizer_does_not_go_out(saved_run, tmp_path):
    model, tokenizer = open_model(saved_run)
    (tmp_path / "wrong.model").write_bytes(b"wrong")
    with pytest.raises(ValueError, match=r"wrong.model is not a SentencePiece model; give a Sent"):
        export_huggingface(model, tmp_path / "out", tmp_path / "wrong.model")
    small = ModelConfig(
        vocab_size=10, hidden_size=8, intermediate_size=8, num_blocks=1, num_attention_heads=1
    )
    with pytest.raises(ValueError, match="has 64 tokens, more than the model's vocab_size=10; use"):
        export_huggingface(MobileLLM(small), tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def test_exports_and_imports_name_the_tokenizers_ids(tmp_path, run_script):
    transformers = pytest.importorskip("transformers")
    tokenizer = make_tokenizer(tmp_path / "t5", **T5)
    save_model(make_constant_model(1, eos_token_id=2, bos_token_id=2), tmp_path / "ours", tokenizer)
    code, _, told = run_script(
        "export", tmp_path / "ours", "--format", "huggingface", "--out", tmp_path / "hf"
    )
    assert code == 0
    assert "the model's tokenizer has 1 and 1" in told
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert (theirs.config.eos_token_id, theirs.generation_config.eos_token_id) == (1, 1)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (words.eos_token, words.bos_token) == ("</s>", "</s>")
    values = json.loads((tmp_path / "hf/config.json").read_text(encoding="utf-8"))
    assert (values["eos_token_id"], values["bos_token_id"]) == (1, 1)
    values |= {"eos_token_id": 2, "bos_token_id": 2}
    (tmp_path / "hf/config.json").write_text(json.dumps(values), encoding="utf-8")
    assert run_script("import", tmp_path / "hf", "--out", tmp_path / "back")[0] == 0
    config = open_model(tmp_path / "back")[0].config
    assert (config.eos_token_id, config.bos_token_id) == (1, 1)


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        (T5, (2, 2), (1, 1)),
        (T5, (1, 1), (1, 1)),
        (T5, (1, 2), (1, 1)),  # it would begin with the unknown token
        (T5, (2, 5), (1, 5)),
        ({}, (2, 1), (2, 1)),
        ({}, (2, 2), (2, 2)),
        ({}, (5, 5), (2, 2)),
        ({}, (5, 1), (2, 1)),
        ({}, (2, 0), (2, 1)),
        ({"eos_id": -1}, (2, 2), (2, 2)),
    ],
)
def test_ids_of_a_saved_model_follow_its_tokenizer(options, before, after, tmp_path):
    from mobilellm.data.tokenizers import open_tokenizer
    from mobilellm.formats.special_tokens import with_tokenizer_ids

    processor = open_tokenizer(make_tokenizer(tmp_path / "made", **options))
    config = make_constant_model(1, eos_token_id=before[0], bos_token_id=before[1]).config
    found = with_tokenizer_ids(config, processor)
    assert (found.eos_token_id, found.bos_token_id) == after


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        (b"aGk= 0\nYQ== 1\n", "is a tiktoken tokenizer, which is not supported; give a Sent"),
        (b'{"tokens": {}}', "is JSON, but not a tokenizer of Hugging Face, which has a field `mod"),
        (b'{"model": {"type": "BPE"', "is damaged (Expecting"),
        (b'{"model": {"type": "ABC"}}', "cannot be opened ("),
        (b"some text", "is not a SentencePiece model; give a SentencePiece tokenizer.model or a"),
    ],
)
def test_what_is_no_tokenizer(content, message, run_script, saved_run, tmp_path):
    (tmp_path / "given").write_bytes(content)
    code, _, errors = run_script("generate", saved_run, "--tokenizer", tmp_path / "given")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"error: tokenizer {tmp_path}/given {message}")
    export_huggingface(open_model(saved_run)[0], tmp_path / "hf")
    (tmp_path / "hf/tokenizer.model").write_bytes(content)
    code, _, errors = run_script("import", tmp_path / "hf", "--out", tmp_path / "ours")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"error: tokenizer {tmp_path}/hf/tokenizer.model {message}")
    assert not (tmp_path / "ours").exists()


def test_a_folder_or_another_kind_of_tokenizer_is_named(run_script, saved_run, tmp_path):
    given = saved_run / "model"
    code, _, errors = run_script("generate", saved_run, "--tokenizer", given)
    assert (code, errors) == (2, f"error: tokenizer {given} is a folder; give the file in it, "
                              f"{given}/tokenizer.model\n")  # fmt: skip
    save_model(open_model(saved_run)[0], tmp_path / "json")
    (tmp_path / "json/vocab.json").write_text("{}", encoding="utf-8")
    code, _, errors = run_script("generate", tmp_path / "json")
    assert (code, errors) == (2, f"error: {tmp_path}/json contains vocab.json, which is not "
                              "supported, and no tokenizer.model or tokenizer.json; give the "
                              "tokenizer that the model was trained with: load(folder, "
                              "tokenizer=PATH), or --tokenizer PATH\n")  # fmt: skip


def test_a_prompt_that_is_not_utf8(run_script, saved_run):
    code, _, errors = run_script("generate", saved_run, "--prompt", b"a\xff".decode(
        errors="surrogateescape"))  # fmt: skip
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: the prompt is not UTF-8 text ('\\udcff' at character 1); conv")


@pytest.mark.parametrize("sampled", [[], ["--temperature", "1", "--seed", "0"]])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(sampled, value, run_script, saved_run, tmp_path):
    model, tokenizer = open_model(saved_run)
    with torch.no_grad():
        model.norm.weight[3] = value
    save_model(model, tmp_path / "diverged", tokenizer)
    code, printed, errors = run_script("generate", tmp_path / "diverged", *sampled)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: the model's logits are not finite (NaN or infinite): its wei")


def test_a_gguf_file_has_no_type_that_could_be_kept(run_script, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    arguments = (tmp_path / "model.gguf", "--out", tmp_path / "out", "--dtype", "stored")
    code, printed, errors = run_script("import", *arguments)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert "error: --dtype stored cannot be used for " in errors
    assert "use --dtype float32, bfloat16 or float16" in errors
    assert not (tmp_path / "out").exists()


def test_a_run_is_no_foreign_model(run_script, saved_run, tmp_path):
    for folder in (saved_run, saved_run / "model"):
        code, printed, errors = run_script("import", folder, "--out", tmp_path / "out")
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert f"error: {folder} is a model of this project already, which every command" in errors
        assert "--chat-template chatml" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("generate", ["nowhere"], "error: folder nowhere does not exist; give the folder of"),
        ("import", ["nowhere", "--out", "out"], "error: folder nowhere does not exist"),
        (
            "import",
            ["nowhere", "--out", "."],
            "error: --out=. is in use and is never overwritten; give a new",
        ),
        (
            "export",
            ["nowhere", "--format", "huggingface", "--out", "o"],
            "error: folder nowhere do",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(run_script, name, arguments, message, tmp_path):
    (tmp_path / "something").touch()
    code, printed, errors = run_script(name, *arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.parametrize("name", ["generate", "import", "export"])
def test_help_comes_at_once_and_from_anywhere(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "FOLDER" in done.stdout or "MODEL_DIR" in done.stdout
