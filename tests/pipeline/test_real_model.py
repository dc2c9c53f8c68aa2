"""A real model goes through every command: SmolLM2-135M-Instruct, or another of its kind.

The folder is named by the environment variable MOBILELLM_TEST_MODEL. It has a byte-level
tokenizer.json and a chat template, and may have the GGUF file that it was made from.
"""

import os
import random
import sysconfig
from pathlib import Path

import pytest
import torch

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.formats.gguf import import_gguf
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.formats.model_folder import open_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.inference.loaded_model import load
from mobilellm.pipeline.compress import compress_folder
from mobilellm.pipeline.train import train

FOLDER = os.environ.get("MOBILELLM_TEST_MODEL", "")
NUM_LINES = 10_000
SCRIPTS = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF),
           (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
           (0xAC00, 0xD7A3), (0x1F300, 0x1F6FF), (0x300, 0x36F), (0x2000, 0x206F)]  # fmt: skip
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="MOBILELLM_TEST_MODEL is not set"),
]


@pytest.fixture(scope="module")
def reference():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def mixed_lines():
    """Code, the text in it, and random words of many scripts."""
    lines: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > NUM_LINES // 2:
            break
    draw = random.Random(0)
    lines = lines[: NUM_LINES // 2]
    while len(lines) < NUM_LINES:
        words = [
            "".join(chr(draw.randint(*script)) for _ in range(draw.randint(1, 9)))
            for script in draw.choices(SCRIPTS, k=draw.randint(1, 12))
        ]
        lines.append(draw.choice(["", " ", "\t"]) + draw.choice([" ", "  ", "\n"]).join(words))
    return lines


def test_encodings_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    ours = open_tokenizer(Path(FOLDER) / "tokenizer.json")
    counts = ours.byte_counts()
    lines = mixed_lines()
    assert len(lines) == NUM_LINES
    for line in lines:
        tokens = ours.encode(line)
        assert tokens == theirs.encode(line, add_special_tokens=False), line
        assert counts[tokens].sum() == len(line.encode())
    text = ours.apply_chat_template(CAPITAL)
    assert text == theirs.apply_chat_template(CAPITAL, tokenize=False, add_generation_prompt=True)


def test_logits_are_those_of_transformers(reference):
    ours, path = open_model(FOLDER)
    tokens = open_tokenizer(path).encode("\n".join(mixed_lines()[:40]))[:400]
    with torch.no_grad():
        ids = torch.tensor([tokens])
        assert (ours(ids).logits - reference(ids).logits).abs().max().item() < 1e-4


def test_it_answers_a_question(tmp_path):
    assert load(FOLDER).chat(CAPITAL, 20) == "The capital of France is Paris."


def test_its_gguf_file_has_the_same_weights():
    files = list(Path(FOLDER).glob("*.gguf"))
    if not files:
        pytest.skip("the folder has no GGUF file")
    ours, _ = open_model(FOLDER)
    other, _ = import_gguf(files[0])
    assert other.config == ours.config
    for name, tensor in ours.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_it_goes_out_again(tmp_path, reference):
    transformers = pytest.importorskip("transformers")
    model, path = open_model(FOLDER)
    export_huggingface(model, tmp_path / "out", path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.encode("It's 12 o'clock") == open_tokenizer(path).encode("It's 12 o'clock")


@pytest.fixture
def overrides(corpus, tmp_path):
    return ["data=text", f"data.train={corpus}", "data.max_megabytes=0.05", "data.held_out=0.3",
            f"prepared_dir={tmp_path}/prepared", "sequence_length=64"]  # fmt: skip


def short_run(overrides, tmp_path, *more):
    short = [*overrides, f"output_dir={tmp_path}/outputs", "tokens_per_step=128", "max_tokens=128",
             "validation_tokens=128", "optimizer=adamw", "optimizer.learning_rate=1e-5",
             "trainer=cpu", "trainer.num_threads=1"]  # fmt: skip
    return train(compose("train", [*short, *more]))


def test_it_is_trained_compressed_and_teaches(overrides, tmp_path):
    tuned = short_run(overrides, tmp_path, f"init_from={FOLDER}")
    assert tuned["status"] == "finished"
    assert 0 < tuned["val_bits_per_byte"] < 2
    cfg = compose("compress", [*overrides, "compression=magnitude", "validation_tokens=128",
                               "compression.calibration_tokens=128", "latency=false"])  # fmt: skip
    report = compress_folder(cfg, FOLDER, tmp_path / "compressed")
    assert report.hashes["tokenizer"] == tuned["hashes"]["tokenizer"]
    assert load(tmp_path / "compressed").tokenizer is not None
    model, _ = open_model(FOLDER)
    taught = short_run(
        overrides, tmp_path, "model=tiny_deep", f"model.vocab_size={model.config.vocab_size}",
        "distillation=forward_kl", f"distillation.teacher={FOLDER}",
    )  # fmt: skip
    assert taught["status"] == "finished"
    assert taught["hashes"]["tokenizer"] == tuned["hashes"]["tokenizer"]
