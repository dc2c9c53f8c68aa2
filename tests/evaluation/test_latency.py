import subprocess
import sys

import pytest
import torch

from mobilellm.evaluation.latency import (
    Latency,
    compare_latency,
    measure_latency,
    peak_memory_bytes,
)
from mobilellm.models import MobileLLM, ModelConfig

FEW = {"prefill_tokens": 24, "decode_tokens": 3, "rounds": 2}


def make_model(num_blocks=2, intermediate_size=64, **changes):
    return MobileLLM(
        ModelConfig(
            vocab_size=50, hidden_size=32, intermediate_size=intermediate_size,
            num_blocks=num_blocks, num_attention_heads=4, max_position_embeddings=64, **changes,
        )
    )  # fmt: skip


def factorised():
    part = {"left": (64, 1), "right": (1, 32), "num_terms": 4}
    return make_model(compressed_layers={"blocks.0.feed_forward.up_proj": {"parts": [part]}})


def test_a_larger_model_takes_longer_and_more_memory():
    models = {"small": make_model(), "large": make_model(20, 2048)}
    small, large = compare_latency(models, **FEW)
    assert [small["model"], large["model"]] == ["small", "large"]
    assert small["prefill_ratio"] == small["decode_ratio"] == 1
    assert large["prefill_ratio"] > 1
    assert large["decode_ratio"] > 1
    assert large["peak_memory_bytes"] > 3 * small["peak_memory_bytes"]


@pytest.mark.parametrize("compressed", [False, True])
def test_peak_memory_has_the_weights_in_it(compressed):
    model = factorised() if compressed else make_model()
    rows = compare_latency({"first": model, "second": make_model(2, 2048)}, **FEW)
    tokens = torch.zeros(1, FEW["prefill_tokens"], dtype=torch.long)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert rows[0]["peak_memory_bytes"] == peak_memory_bytes(model, tokens) + weights


def test_one_model_is_left_as_it_is():
    model = factorised()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    latency = measure_latency(model, **FEW, batch_size=2)
    assert isinstance(latency, Latency)
    assert latency.prefill_ms > 0
    assert latency.decode_ms_per_token > 0
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_decoding_sees_the_prompt_and_runs_once_a_token():
    model, seen = make_model(), []
    model.register_forward_pre_hook(lambda _, given: seen.append((given[0].shape, given[1].length)))
    measure_latency(model, **FEW)
    one_round = [((1, 24), 0), ((1, 1), 24), ((1, 1), 25), ((1, 1), 26)]
    # A round to warm up, two that count, and the prompt once more for its memory.
    assert seen == 3 * one_round + [((1, 24), 0)]


def test_peak_memory_is_that_of_the_tensors_alive_at_one_time():
    model = make_model(1, 1024)
    tokens = torch.zeros(1, 60, dtype=torch.long)
    # Gate, up and their product are alive at one time: three of them, and little else.
    inner = 4 * 60 * 1024
    assert 3 * inner < peak_memory_bytes(model, tokens) < 4 * inner
    assert peak_memory_bytes(model, tokens) == peak_memory_bytes(model, tokens)
    deeper = peak_memory_bytes(make_model(8, 1024), tokens)
    assert deeper < 1.5 * peak_memory_bytes(model, tokens)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds=0 must be a whole number of at least 1"),
        ({"decode_tokens": 41}, "together are 65, more than max_position_embeddings=64; use f"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        measure_latency(make_model(), **FEW | wrong)


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="models is empty; give at least one"):
        compare_latency({})


def test_measuring_memory_says_nothing():
    source = """
import torch
from mobilellm.evaluation.latency import peak_memory_bytes
from mobilellm.models import MobileLLM, ModelConfig
sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32}
config = ModelConfig(**sizes, num_blocks=1, num_attention_heads=2)
print(peak_memory_bytes(MobileLLM(config), torch.zeros(1, 4, dtype=torch.long)) > 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        encoding="utf-8",
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
