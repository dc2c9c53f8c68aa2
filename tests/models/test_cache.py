import pytest
import torch

from mobilellm.models import ModelConfig
from mobilellm.models.cache import KVCache


def make_config(**changes):
    return ModelConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_blocks=2, num_attention_heads=2,
        max_position_embeddings=100, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("capacity", [None, 1, 7, 100])
def test_a_growing_cache_returns_all_that_was_appended(capacity):
    cache = KVCache(make_config(), capacity=capacity)
    given = torch.randn(2, 2, 3, 2, 100, 4)  # slot, key or value, batch, heads, tokens, head_dim
    start = 0
    for end in (1, 2, 9, 40, 64, 65, 100):
        for slot in range(2):
            new = given[slot, :, :, :, start:end]
            for kind, held in enumerate(cache.append(slot, new[0], new[1])):
                assert torch.equal(held, given[slot, kind, :, :, :end])
        cache.advance(end - start)
        start = end
    assert cache.length == 100
    assert cache.num_bytes == given.numel() * 4


def test_an_appended_tensor_may_change_afterwards():
    cache = KVCache(make_config())
    new = torch.ones(1, 2, 1, 4)
    held, _ = cache.append(0, new, new)
    new.zero_()
    assert held.eq(1).all()


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="capacity=101 must lie between 1 and max_position_emb"):
        KVCache(make_config(), capacity=101)
    with pytest.raises(ValueError, match="capacity=0 must lie between 1"):
        KVCache(make_config(), capacity=0)
    cache = KVCache(make_config())
    with pytest.raises(ValueError, match="101 tokens do not fit into max_position_embeddings=100"):
        cache.append(0, torch.ones(1, 2, 101, 4), torch.ones(1, 2, 101, 4))
    cache.append(0, torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
    with pytest.raises(ValueError, match="batch size 3 does not match the cache's batch size 1"):
        cache.append(0, torch.ones(3, 2, 1, 4), torch.ones(3, 2, 1, 4))


def test_after_a_cut_the_cache_continues_from_there():
    cache = KVCache(make_config())
    first, second = torch.randn(2, 1, 2, 70, 4), torch.randn(2, 1, 2, 30, 4)
    for slot in range(2):
        cache.append(slot, first[0], first[1])
    cache.advance(70)
    cache.truncate(40)
    assert cache.length == 40
    for slot in range(2):
        keys, values = cache.append(slot, second[0], second[1])
        assert torch.equal(keys, torch.cat((first[0][:, :, :40], second[0]), dim=2))
        assert torch.equal(values, torch.cat((first[1][:, :, :40], second[1]), dim=2))
    for count in (-1, 41):
        with pytest.raises(ValueError, match=f"num_tokens={count} must lie between 0 and the 40"):
            cache.truncate(count)
