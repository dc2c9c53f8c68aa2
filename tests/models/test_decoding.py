import pytest
import torch
from reference_models import SHARED, make_ids, make_model
from torch import nn

from mobilellm.models import decoding as decoding_module
from mobilellm.models.cache import KVCache
from mobilellm.models.decoding import MAX_BATCH, MIN_NEW_TOKENS, PackedDecoder, can_pack
from mobilellm.models.generation import generate

CHANGES = [
    {},
    {"tie_word_embeddings": False, "num_key_value_heads": 6},
    {"qk_norm": "rms", "head_dim": 10},
    {"qk_norm": "l2", "feed_forward": "relu"},
    {
        "num_attention_heads": [4, 2, 6], "num_key_value_heads": [2, 1, 6], "head_dim": 4,
        "intermediate_size": [8, 40, 3], "qk_norm": "rms",
    },
    *({"layer_sharing": scheme, "block_repeats": 2} for scheme in SHARED),
    *({"layer_sharing": s, "block_repeats": 3, "share_kv": "first"} for s in SHARED),
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.usefixtures("uneven_schemes")
@torch.no_grad()
def test_packed_steps_equal_the_full_forward(changes, batch):
    model, ids = make_model(**changes), make_ids(batch, 20)
    cache = KVCache(model.config)
    model(ids[:, :4], cache, logits=False)
    decoder = PackedDecoder(model, batch)
    given = torch.stack([decoder.step(ids[:, i], cache) for i in range(4, 20)], dim=1)
    wanted = model(ids).logits[:, 4:]
    # Seven random layers of the last scheme round by up to 5e-5, in any order of summing.
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_packed_steps_of_padded_rows_equal_the_full_forward():
    model, ids = make_model(qk_norm="rms"), make_ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :3] = False
    cache, decoder = KVCache(model.config), PackedDecoder(model, 2)
    model(ids[:, :5], cache, attention_mask=mask[:, :5])
    given = torch.stack([decoder.step(ids[:, i], cache, mask) for i in range(5, 12)], dim=1)
    alone = torch.cat((model(ids[:1, 3:]).logits[:, 2:], model(ids[1:]).logits[:, 5:]))
    torch.testing.assert_close(given, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(7, 13), (600, 40), (1100, 3), (16, 512), (513, 1)], ids=str)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_of_any_size_give_the_product(sizes, batch, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    first, second = torch.randn(sizes), torch.randn(5, sizes[1])
    x = torch.randn(batch, sizes[1])
    packed = decoding_module._PackedMatrix([first, second], batch)
    wanted = x.double() @ torch.cat((first, second)).double().T
    torch.testing.assert_close(packed(x).double(), wanted, atol=1e-4, rtol=1e-4)


def test_generate_packs_long_texts_and_writes_the_same(monkeypatch):
    model = make_model(block_repeats=2, max_position_embeddings=100)
    prompts = [row[:length] for row, length in zip(make_ids(3), (2, 9, 5), strict=True)]
    made = []
    original = decoding_module.PackedDecoder.step

    def counted(self, *arguments):
        made.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(decoding_module.PackedDecoder, "step", counted)
    packed = generate(model, prompts, MIN_NEW_TOKENS, stop_at_eos=False)
    assert len(made) == (MIN_NEW_TOKENS - 1 if can_pack(model, 3) else 0)
    with model.norm.register_forward_hook(lambda *_: None):
        plain = generate(model, prompts, MIN_NEW_TOKENS, stop_at_eos=False)
    assert torch.equal(packed, plain)


@pytest.mark.skipif(not can_pack(make_model(), 1), reason="this CPU decodes unpacked")
def test_only_plain_models_are_packed():
    assert can_pack(make_model(), MAX_BATCH)
    assert not can_pack(make_model(), MAX_BATCH + 1)
    assert not can_pack(make_model().bfloat16(), 1)
    model = make_model()
    with model.blocks[1].register_forward_pre_hook(lambda *_: None):
        assert not can_pack(model, 1)
    assert can_pack(model, 1)
    model.blocks[0].attention.q_proj = nn.Sequential(model.blocks[0].attention.q_proj)
    assert not can_pack(model, 1)
    model = make_model()
    model.blocks[0].attention.o_proj = nn.Linear(24, 24)
    assert not can_pack(model, 1)
