import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mobilellm.checkpoint import save_model
from mobilellm.export.model_folder import open_model
from mobilellm.export.text import continue_text
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

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


def run_script(name, *arguments, folder):
    """Run a script from another folder, as a user may."""
    return subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip


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


def test_out_and_in_again_writes_the_same_text(run_folder, tmp_path):
    llama, back = tmp_path / "llama", tmp_path / "back"
    steps = [
        run_script(
            "export", run_folder, "--format", "huggingface", "--out", llama, folder=tmp_path
        ),
        run_script("import", llama, "--out", back, folder=tmp_path),
    ]
    assert [step.returncode for step in steps] == [0, 0], steps
    sampled = ("--prompt", "the", "--temperature", "1.5", "--top-k", "20", "--seed", "0")
    written = run_script("generate", run_folder, *sampled, folder=tmp_path).stdout
    assert written.startswith("the")
    for source in (run_folder / "model", llama, back):
        settings = {"temperature": 1.5, "top_k": 20, "seed": 0}
        assert continue_text(*open_model(source), "the", 100, **settings) + "\n" == written


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
def test_an_error_is_one_line_and_exit_code_2(name, arguments, message, tmp_path):
    (tmp_path / "something").touch()
    done = run_script(name, *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.parametrize("name", ["generate", "import", "export"])
def test_help_is_short_of_nothing(name, tmp_path):
    done = run_script(name, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "FOLDER" in done.stdout or "MODEL_DIR" in done.stdout
