"""The other projects' models compute the same loss from the same weights."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from mobilellm.accounting import count_parameters
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from scripts.benchmarks.peer_models import huggingface_llama, llama_shape
from scripts.benchmarks.time_to_loss.window_loss import mean_loss

ROOT = Path(__file__).parents[2]

COPY_INTO_LITGPT = """
import json, sys
import numpy as np, torch
from litgpt.model import GPT
from safetensors.torch import load_file
from scripts.benchmarks.peer_models import litgpt_config
from scripts.benchmarks.time_to_loss.window_loss import mean_loss

folder = sys.argv[1]
shape = json.load(open(f"{folder}/shape.json"))
given = load_file(f"{folder}/exported/model.safetensors")
model = GPT(litgpt_config(shape, 12)).eval()
model.lm_head.weight = model.transformer.wte.weight
names = {"input_layernorm": "norm_1", "post_attention_layernorm": "norm_2",
         "self_attn.o_proj": "attn.proj", "mlp.gate_proj": "mlp.fc_1", "mlp.up_proj": "mlp.fc_2",
         "mlp.down_proj": "mlp.proj"}
weights = {"transformer.wte.weight": given["model.embed_tokens.weight"],
           "lm_head.weight": given["model.embed_tokens.weight"],
           "transformer.ln_f.weight": given["model.norm.weight"]}
for layer in range(shape["num_layers"]):
    theirs, ours = f"transformer.h.{layer}.", f"model.layers.{layer}."
    for one, other in names.items():
        weights[f"{theirs}{other}.weight"] = given[f"{ours}{one}.weight"]
    parts = [given[f"{ours}self_attn.{part}_proj.weight"] for part in "qkv"]
    weights[f"{theirs}attn.qkv.weight"] = torch.cat(parts)
model.load_state_dict(weights)
print(json.dumps([sum(p.numel() for p in model.parameters()),
                  mean_loss(model, np.load(f"{folder}/windows.npy"))]))
"""


def small_config(**changes):
    fields = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 2,
              "num_attention_heads": 2, "rope_theta": 5000.0} | changes  # fmt: skip
    return ModelConfig(**fields)


def random_windows():
    return np.random.default_rng(0).integers(0, 40, (11, 13)).astype(np.uint16)


def test_the_loss_is_the_mean_over_tokens():
    windows = random_windows()
    logits = torch.randn(40, 40, generator=torch.Generator().manual_seed(1))
    expected = [
        -torch.log_softmax(logits[int(a)], 0)[int(b)].item()
        for row in windows
        for a, b in pairwise(row)
    ]
    assert mean_loss(lambda tokens: logits[tokens], windows) == pytest.approx(
        np.mean(expected), rel=1e-6
    )


@pytest.mark.parametrize("heads", [None, 1])
def test_hugging_face(heads, tmp_path):
    pytest.importorskip("transformers")
    config = small_config(num_key_value_heads=heads or 2)
    ours = MobileLLM(config).eval()
    export_huggingface(ours, tmp_path / "exported")
    from safetensors.torch import load_file

    theirs = huggingface_llama(llama_shape(config)).eval()
    weights = load_file(tmp_path / "exported" / "model.safetensors")
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    assert sum(p.numel() for p in theirs.parameters()) == count_parameters(config).stored
    losses = [
        mean_loss(lambda tokens, m=model: m(tokens).logits, random_windows())
        for model in (ours, theirs)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.skipif(not os.environ.get("LITGPT_PYTHON"), reason="LITGPT_PYTHON is not set")
@pytest.mark.parametrize("heads", [2, 1])
def test_litgpt(heads, tmp_path):
    config = small_config(num_key_value_heads=heads)
    ours = MobileLLM(config).eval()
    expected = mean_loss(lambda tokens: ours(tokens).logits, random_windows())
    export_huggingface(ours, tmp_path / "exported")
    np.save(tmp_path / "windows.npy", random_windows())
    (tmp_path / "shape.json").write_text(json.dumps(llama_shape(config)), encoding="utf-8")
    printed = subprocess.run(
        [os.environ["LITGPT_PYTHON"], "-c", COPY_INTO_LITGPT, str(tmp_path)],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip
    parameters, loss = json.loads(printed.splitlines()[-1])
    assert parameters == count_parameters(config).stored
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_repeats": 2}, "use model.block_repeats=1"),
        ({"qk_norm": "rms"}, "use model.qk_norm=none"),
        ({"feed_forward": "relu"}, "use model.feed_forward=swiglu"),
        ({"intermediate_size": (24, 32)}, "intermediate_size differs between blocks"),
    ],
)
def test_shapes_that_the_others_cannot_build_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        llama_shape(small_config(**changes))
