"""A real model goes out as GGUF files, and llama.cpp continues texts as the model does.

The folder is named by the environment variable MOBILELLM_TEST_MODEL.
"""

import os
import sysconfig
from pathlib import Path

import pytest
import torch
from test_gguf_export import assert_same_continuation
from test_gguf_tokenizer_export import HARD

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.evaluation.engines import LlamaCpp, TorchEngine
from mobilellm.formats.gguf import export_gguf, import_gguf
from mobilellm.formats.model_folder import open_model

FOLDER = os.environ.get("MOBILELLM_TEST_MODEL", "")
PROMPTS = ("The capital of France is", "def main():\n")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="MOBILELLM_TEST_MODEL is not set"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("xllamacpp")
    path = tmp_path_factory.mktemp("real") / "m.gguf"
    model, tokenizer = open_model(FOLDER)
    export_gguf(model, path, tokenizer, kind="f32")
    return path, model, open_tokenizer(tokenizer)


def test_lines_become_the_same_tokens(exported):
    path, _, tokenizer = exported
    lines = list(HARD)
    for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        lines += source.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > 1000:
            break
    with LlamaCpp(path) as theirs:
        for line in lines[:1000]:
            assert theirs.tokenize(line) == tokenizer.encode(line), line


def test_texts_go_on_in_the_same_way(exported):
    path, model, tokenizer = exported
    never = sorted({model.config.bos_token_id, model.config.eos_token_id, 0})
    ours = TorchEngine(model, top=8)
    with LlamaCpp(path, cache_type="f32", top=8) as theirs:
        for prompt in PROMPTS:
            assert_same_continuation(ours, theirs, tokenizer.encode(prompt), never)


def test_the_file_comes_in_again(exported):
    path, model, _ = exported
    ids = torch.arange(100, 140).view(2, 20)
    back, _ = import_gguf(path)
    with torch.no_grad():
        torch.testing.assert_close(back(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-5)
