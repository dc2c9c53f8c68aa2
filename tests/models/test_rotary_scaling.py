import math
from dataclasses import replace

import pytest
import torch

from mobilellm.models import ModelConfig
from mobilellm.models.rotary import make_rotary
from mobilellm.models.rotary_scaling import RotaryScaling, parse_rotary_scaling

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


def naive_frequency(index, head_dim, theta):
    """One frequency, as in the code that was published with Llama 3.1."""
    frequency = theta ** (-2 * index / head_dim)
    wavelength = 2 * math.pi / frequency
    if wavelength < 8192 / 4:
        return frequency
    if wavelength > 8192 / 1:
        return frequency / 8
    smooth = (8192 / wavelength - 1) / (4 - 1)
    return (1 - smooth) * frequency / 8 + smooth * frequency


def test_frequencies_are_those_of_llama_3():
    positions = torch.tensor([0, 1, 100])
    cos, sin = make_rotary(positions, 64, 5e5, RotaryScaling(**LLAMA3))
    expected = [naive_frequency(index, 64, 5e5) for index in range(32)]
    for row, position in enumerate(positions.tolist()):
        for index, frequency in enumerate(expected):
            angle = position * frequency
            assert cos[row, 0, index].item() == pytest.approx(math.cos(angle), abs=1e-4)
            assert sin[row, 0, 32 + index].item() == pytest.approx(math.sin(angle), abs=1e-4)


def test_linear_scaling_is_interpolation_of_positions():
    scaled = make_rotary(torch.tensor([12]), 8, 1e4, RotaryScaling(rope_type="linear", factor=4.0))
    plain = make_rotary(torch.tensor([3]), 8, 1e4)
    for one, other in zip(scaled, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_it_is_written_only_where_there_is_one():
    config = ModelConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_blocks=1,
                         num_attention_heads=1)  # fmt: skip
    assert "rope_scaling" not in config.to_dict()
    scaled = replace(config, rope_scaling=LLAMA3)
    assert scaled.to_dict()["rope_scaling"] == LLAMA3
    assert ModelConfig.from_dict(scaled.to_dict()) == scaled
    assert hash(scaled) != hash(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("linear", "rope_scaling='linear' must be null or a mapping such as"),
        ({"factor": 2.0}, "rope_scaling.rope_type is missing; give it"),
        (
            {"rope_type": "yarn", "factor": 2.0},
            "rope_scaling.rope_type='yarn' is not known; use on",
        ),
        ({"rope_type": "linear"}, "rope_scaling.factor is missing; give it"),
        (
            {"rope_type": "linear", "factor": 0.5},
            "rope_scaling.factor=0.5 must be at least 1",
        ),
        (
            {"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0},
            "has no effect on rope_ty",
        ),
        ({"rope_type": "llama3", "factor": 2.0}, "rope_scaling.low_freq_factor is required for ro"),
        (
            LLAMA3 | {"low_freq_factor": 4.0},
            "low_freq_factor=4.0 must be below high_freq_factor=4.0",
        ),
        (LLAMA3 | {"beta": 4.0}, "rope_scaling field='beta' is not known; use one of"),
    ],
)
def test_what_is_no_scaling(values, message):
    with pytest.raises(ValueError, match=message):
        parse_rotary_scaling(values)
