import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mobilellm.accounting import flops_per_token
from mobilellm.models import MobileLLM, ModelConfig

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_blocks": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

VARIANTS = [
    {},
    {"feed_forward": "relu", "qk_norm": "rms"},
    {"tie_word_embeddings": False, "num_key_value_heads": 6},
    {"block_repeats": 2, "layer_sharing": "reverse"},
    {"block_repeats": 3, "share_kv": "first"},
    {"block_repeats": 3, "layer_sharing": "sandwich", "num_attention_heads": [2, 4, 6]},
    {"block_repeats": 2, "layer_sharing": "last_first", "share_kv": "first"},
    {"intermediate_size": [8, 40, 16], "num_attention_heads": [2, 4, 6]},
]

pytestmark = pytest.mark.usefixtures("uneven_schemes")


def counted(config, sequence_length, batch=2, backward=False):
    """Operations of the matrix products and of (full) attention, as torch counts them."""
    model = MobileLLM(config)
    ids = torch.randint(config.vocab_size, (batch, sequence_length))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(ids).logits
        if backward:
            logits.sum().backward()
    by_operation = {str(name): n for name, n in counter.get_flop_counts()["Global"].items()}
    attention = sum(n for name, n in by_operation.items() if "bmm" in name)
    return sum(by_operation.values()) - attention, attention


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sequence_length", [1, 7, 16])
def test_forward_operations_are_those_torch_counts(variant, sequence_length):
    config = ModelConfig(**SHAPE | variant)
    matmul, attention = counted(config, sequence_length)
    flops = flops_per_token(config, sequence_length)
    tokens = 2 * sequence_length
    assert flops.matmul * tokens == matmul
    # Torch counts every pair of tokens; causality leaves (n + 1) / 2 of n keys.
    assert flops.attention * tokens * 2 * sequence_length == attention * (sequence_length + 1)
    assert flops.forward == flops.matmul + flops.attention


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_backward_pass_costs_twice_the_forward(variant):
    config = ModelConfig(**SHAPE | variant)
    both, _ = counted(config, 16, backward=True)
    flops = flops_per_token(config, 16)
    # The first block's input needs a gradient too, for the embedding: nothing is saved.
    assert both == 3 * flops.matmul * 32
    assert flops.training == 3 * flops.forward


def test_attention_is_the_number_of_causal_pairs():
    config = ModelConfig(**SHAPE)
    for length in (1, 2, 33):
        pairs = sum(range(1, length + 1))
        scores_and_sums = 2 * 2 * 8 * 6 * 3 * pairs
        assert flops_per_token(config, length).attention * length == scores_and_sums


def test_a_sequence_length_below_one_is_refused():
    with pytest.raises(ValueError, match="sequence_length=0 must be a whole number of at least 1"):
        flops_per_token(ModelConfig(**SHAPE), 0)
