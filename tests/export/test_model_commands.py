import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import save_model
from mobilellm.export.huggingface import export_huggingface
from mobilellm.export.model_folder import open_model
from mobilellm.export.text import continue_text
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate
from mobilellm.models.saved_config import read_config

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXT = "the quick brown fox jumps over the lazy dog and runs away from the big bad wolf again\n"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's folder with a model and a tokenizer of 64 words."""
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text(TEXT * 40)
    SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "words"), vocab_size=64,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_blocks=2, num_attention_heads=2
    )
    save_model(MobileLLM(config), folder / "model", folder / "words.model")
    return folder


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


def test_text_goes_on_from_the_prompt(run_folder):
    model, tokenizer = open_model(run_folder)
    text = continue_text(model, tokenizer, "the quick", 12)
    assert text.startswith("the quick")
    from sentencepiece import SentencePieceProcessor

    words = SentencePieceProcessor(model_file=str(tokenizer))
    prompt = torch.tensor([[1, *words.encode("the quick")]])
    assert text == words.decode(generate(model, prompt, 12)[0].tolist())


def test_text_needs_the_models_own_tokenizer(run_folder):
    model, tokenizer = open_model(run_folder)
    with pytest.raises(FileNotFoundError, match=r"tokenizer tokenizer.model does not exist; give"):
        continue_text(model, None, "a", 3)
    small = MobileLLM(
        ModelConfig(
            vocab_size=10, hidden_size=8, intermediate_size=8, num_blocks=1, num_attention_heads=1
        )
    )
    with pytest.raises(ValueError, match="has 64 words, more than the model's vocab_size=10; give"):
        continue_text(small, tokenizer, "a", 3)


def test_out_and_in_again_writes_the_same_text(run_script, run_folder, tmp_path):
    llama, back = tmp_path / "llama", tmp_path / "back"
    out = run_script("export", run_folder, "--format", "huggingface", "--out", llama)
    stored = count_parameters(read_config(run_folder / "model")).stored
    size = (llama / "model.safetensors").stat().st_size / 1e6
    assert out == (0, f"{llama}: 2 layers, {stored:,} parameters, {size:.3g} MB on disk\n", "")
    assert run_script("import", llama, "--out", back) == (0, f"{back}: 5,456 parameters\n", "")
    sampled = ("--prompt", "the", "--temperature", "1.5", "--top-k", "20", "--seed", "0")
    code, written, _ = run_script("generate", run_folder, *sampled)
    assert code == 0
    assert written.startswith("the")
    for source in (run_folder / "model", llama, back):
        settings = {"temperature": 1.5, "top_k": 20, "seed": 0}
        assert continue_text(*open_model(source), "the", 100, **settings) + "\n" == written


@pytest.mark.parametrize("begin", [1, 2])
@pytest.mark.parametrize("prefix", [True, False])
def test_transformers_splits_text_as_we_do(tmp_path, prefix, begin):
    transformers = pytest.importorskip("transformers")
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    (tmp_path / "text.txt").write_text(TEXT * 40)
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


def test_a_wrong_tokenizer_does_not_go_out(run_folder, tmp_path):
    model, tokenizer = open_model(run_folder)
    (tmp_path / "wrong.model").write_bytes(b"wrong")
    with pytest.raises(ValueError, match=r"wrong.model is no SentencePiece model; give one"):
        export_huggingface(model, tmp_path / "out", tmp_path / "wrong.model")
    small = ModelConfig(
        vocab_size=10, hidden_size=8, intermediate_size=8, num_blocks=1, num_attention_heads=1
    )
    with pytest.raises(ValueError, match="has 64 words, more than the model's vocab_size=10; give"):
        export_huggingface(MobileLLM(small), tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("generate", ["nowhere"], "error: folder nowhere does not exist; give a saved model's"),
        ("import", ["nowhere", "--out", "out"], "error: folder nowhere does not exist"),
        ("import", ["nowhere", "--out", "."], "error: --out . is not an empty folder; name a new"),
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
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "FOLDER" in done.stdout or "MODEL_DIR" in done.stdout
