"""What a compression says about its memory."""

import pytest

from mobilellm.compression.awq import AWQ
from mobilellm.compression.factorization import Factorization
from mobilellm.compression.memory_forecast import compression_memory, memory_text
from mobilellm.compression.pruning import Pruning
from mobilellm.compression.round_to_nearest import RoundToNearest
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.models import ModelConfig

GIB = 2**30


@pytest.fixture
def billion():
    """MobileLLM-1B."""
    return ModelConfig(vocab_size=32_000, hidden_size=1280, intermediate_size=3584, num_blocks=54,
                       num_attention_heads=20, num_key_value_heads=5)  # fmt: skip


@pytest.mark.parametrize("recipe", [
    AWQ(), Pruning(), Factorization(allocation="searched"), StructuredPruning(keep_channels=0.5),
    Factorization(fit="reconstructed", pivoted=True),
], ids=lambda recipe: type(recipe).__name__)  # fmt: skip
def test_a_billion_parameters_are_compressed_on_24_gigabytes(recipe, billion):
    needed = compression_memory(recipe, billion, 65_536)
    assert sum(needed.values()) < 24 * GIB
    # A single input of all: 24 GB would not hold those of all 54 blocks.
    assert needed["second moments of one input"] < GIB < 54 * 8 * 3584**2


def test_only_what_is_needed_is_named(billion):
    for recipe in (RoundToNearest(), Pruning(method="magnitude"), Factorization(fit="weights")):
        assert list(compression_memory(recipe, billion, 65_536)) == [
            "the model and the compressed one"
        ]
    attention = Factorization(layers=["blocks.*.attention.*"], budget={"ratio": 0.5})
    needed = compression_memory(attention, billion, 1000)
    assert needed["residual streams of the calibration text"] == 2 * 4 * 1000 * 1280
    assert needed["second moments of one input"] == 6 * 8 * 1280**2
    text = memory_text(compression_memory(Factorization(fit="reconstructed"), billion, 65_536))
    assert "gradient steps" in text
    assert max(map(len, text.splitlines())) <= 80
