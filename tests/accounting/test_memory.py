import pytest
import torch

from mobilellm.accounting import (
    decode_bytes_per_token,
    kv_cache_bytes_per_token,
    weight_bits,
    weight_bytes,
)
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


# Of SHAPE: q_proj and o_proj 24 x 48, k_proj and v_proj 24 x 16, three matrices of 24 x 40.
BLOCK_WEIGHTS = 2 * 24 * 48 + 2 * 24 * 16 + 3 * 24 * 40
NORM_WEIGHTS = 3 * 2 * 24 + 24


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 32])
def test_matrices_have_the_given_bits_and_norms_at_least_16(bits):
    config = ModelConfig(**SHAPE, block_repeats=2)
    by_hand = (3 * BLOCK_WEIGHTS + 50 * 24) * bits + NORM_WEIGHTS * max(bits, 16)
    assert 8 * weight_bytes(config, bits) == weight_bits(config, bits) == by_hand


@pytest.mark.parametrize(("tied", "tables"), [(True, 1), (False, 2)])
def test_embedding_and_head_may_have_their_own_bits(tied, tables):
    config = ModelConfig(**SHAPE, tie_word_embeddings=tied, qk_norm="rms")
    by_hand = 3 * BLOCK_WEIGHTS * 4 + tables * 50 * 24 * 6 + (NORM_WEIGHTS + 3 * 2 * 8) * 16
    assert weight_bits(config, 4, embedding_bits=6) == by_hand


def test_weight_bytes_round_up_to_whole_bytes():
    config = ModelConfig(**SHAPE | {"vocab_size": 51, "hidden_size": 25})
    assert weight_bits(config, 1) % 8
    assert weight_bytes(config, 1) == weight_bits(config, 1) // 8 + 1


def test_without_context_a_plain_model_reads_all_its_weights_once():
    config = ModelConfig(**SHAPE)
    assert decode_bytes_per_token(config, bits=16) == weight_bytes(config, 16)


def test_an_untied_model_reads_one_row_of_the_input_table():
    config = ModelConfig(**SHAPE, tie_word_embeddings=False)
    unread = (config.vocab_size - 1) * config.hidden_size
    assert decode_bytes_per_token(config, bits=8) == weight_bytes(config, 8) - unread


def test_the_cache_is_read_for_every_earlier_token():
    config = ModelConfig(**SHAPE, block_repeats=2)
    read = [decode_bytes_per_token(config, bits=4, context=n, kv_bits=8) for n in (0, 1, 10)]
    per_token = kv_cache_bytes_per_token(config, bytes_per_value=1)
    assert [read[1] - read[0], read[2] - read[0]] == [per_token, 10 * per_token]


@pytest.mark.parametrize(
    ("scheme", "reads_of_each_block"),
    [("immediate", [1, 1, 1]), ("repeat_all", [2, 2, 2]), ("reverse", [2, 2, 1])],
)
def test_a_block_that_runs_twice_in_a_row_may_stay_in_the_cache(scheme, reads_of_each_block):
    config = ModelConfig(**SHAPE, block_repeats=2, layer_sharing=scheme)
    block = BLOCK_WEIGHTS + 2 * 2 * 24  # bytes: those of the norms twice
    plain = decode_bytes_per_token(config, bits=8)
    assert plain == 6 * block + 50 * 24 + 2 * 24
    cached = decode_bytes_per_token(config, bits=8, repeats_cached=True)
    assert plain - cached == block * (6 - sum(reads_of_each_block))


@pytest.mark.parametrize("share_kv", ["own", "first"])
def test_decoding_reads_the_matrices_that_a_model_uses(share_kv):
    config = ModelConfig(**SHAPE, block_repeats=2, share_kv=share_kv)
    model = MobileLLM(config).eval()
    bytes_read = [50 * 24]  # the embedding as head

    def count(module, *_):
        sizes = [(p.ndim, p.numel()) for p in module.parameters(recurse=False)]
        bytes_read.append(sum(number * (1 if ndim == 2 else 2) for ndim, number in sizes))

    for name, module in model.named_modules():
        if name != "embedding":
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.tensor([[3]]))
    assert decode_bytes_per_token(config, bits=8) == sum(bytes_read)


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize(("scheme", "again"), [("sandwich", 4), ("last_first", 5)])
def test_blocks_that_run_unequally_often_are_read_as_often(scheme, again):
    # 0 1 2 1 2 3 and 3 2 1 0 0 2; only the second runs a block twice in a row.
    sizes = [8, 16, 32, 64]
    shape = SHAPE | {"num_blocks": 4, "intermediate_size": sizes}
    config = ModelConfig(**shape, block_repeats=2, layer_sharing=scheme)
    order = (0, 1, 2, 1, 2, 3) if scheme == "sandwich" else (3, 2, 1, 0, 0, 2)
    attention, norms = 24 * (48 + 16 + 16 + 48), 2 * 2 * 24
    blocks = [attention + norms + 3 * 24 * size for size in sizes]
    rest = 2 * 24 + 50 * 24
    read = sum(blocks[block] for block in order)
    assert decode_bytes_per_token(config, bits=8) == rest + read
    cached = read - (blocks[0] if scheme == "last_first" else 0)
    assert decode_bytes_per_token(config, bits=8, repeats_cached=True) == rest + cached
    assert kv_cache_bytes_per_token(config, bytes_per_value=1) == 6 * 2 * 2 * 8
    first = ModelConfig(**shape, block_repeats=2, layer_sharing=scheme, share_kv="first")
    assert kv_cache_bytes_per_token(first, bytes_per_value=1) == 4 * 2 * 2 * 8
    whole, empty = (
        decode_bytes_per_token(first, bits=8, kv_bits=8, context=n, repeats_cached=True)
        for n in (1, 0)
    )
    assert whole - empty == (6 if scheme == "sandwich" else 5) * 2 * 2 * 8


@pytest.mark.parametrize("repeats_cached", [False, True])
def test_shared_keys_and_values_are_read_by_every_application(repeats_cached):
    config = ModelConfig(**SHAPE, block_repeats=2, layer_sharing="repeat_all", share_kv="first")
    options = {"bits": 8, "kv_bits": 8, "repeats_cached": repeats_cached}
    read = [decode_bytes_per_token(config, context=n, **options) for n in (0, 5)]
    assert read[1] - read[0] == 5 * 2 * kv_cache_bytes_per_token(config, bytes_per_value=1)


def test_values_that_make_no_sense_are_refused():
    config = ModelConfig(**SHAPE)
    with pytest.raises(ValueError, match="bits=0 must be a whole number of at least 1"):
        weight_bytes(config, 0)
    with pytest.raises(ValueError, match="embedding_bits=0 must be a whole number of at least 1"):
        weight_bytes(config, 4, embedding_bits=0)
    with pytest.raises(ValueError, match=r"kv_bits=2\.5 must be a whole number of at least 1"):
        decode_bytes_per_token(config, kv_bits=2.5)
    with pytest.raises(
        ValueError, match="context=-1 must not be negative; give the number of tokens"
    ):
        decode_bytes_per_token(config, context=-1)
