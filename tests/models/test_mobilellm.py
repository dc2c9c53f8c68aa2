import itertools

import pytest
import torch
import torch.nn.functional as F
from reference_models import (
    SHARED,
    assert_close,
    copy_to_transformers,
    gradients,
    make_config,
    make_ids,
    make_model,
    naive_forward,
)

from mobilellm.models import MobileLLM


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [6, 2, 1])
def test_logits_and_gradients_equal_transformers_llama(kv_heads, tied):
    model = make_model(num_key_value_heads=kv_heads, tie_word_embeddings=tied, rope_theta=5e4)
    theirs, ids = copy_to_transformers(model), make_ids()
    ours_logits, their_logits = model(ids).logits, theirs(ids).logits
    assert_close(ours_logits, their_logits)
    labels = make_ids().roll(-1).flatten()
    F.cross_entropy(ours_logits.flatten(0, 1), labels).backward()
    F.cross_entropy(their_logits.flatten(0, 1), labels).backward()
    assert_close(model.embedding.weight.grad, theirs.model.embed_tokens.weight.grad)
    for block, layer in zip(model.blocks, theirs.model.layers, strict=True):
        assert_close(block.attention.k_proj.weight.grad, layer.self_attn.k_proj.weight.grad)
        assert_close(block.feed_forward.gate_proj.weight.grad, layer.mlp.gate_proj.weight.grad)
        assert_close(block.attention_norm.weight.grad, layer.input_layernorm.weight.grad)


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": "rms"},
        {"feed_forward": "relu"},
        {"head_dim": 10},
        {
            "num_attention_heads": [4, 2, 6], "num_key_value_heads": [2, 1, 6], "head_dim": 4,
            "intermediate_size": [8, 40, 3], "block_repeats": 2, "layer_sharing": "reverse",
        },
        *(
            {"share_kv": "first", "block_repeats": repeats, "layer_sharing": scheme}
            for scheme, repeats in itertools.product(SHARED, (2, 3))
        ),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("uneven_schemes")
def test_logits_equal_the_definition(changes):
    model, ids = make_model(**changes).double(), make_ids()
    assert_close(model(ids).logits, naive_forward(model, ids))


def test_weightless_qk_norm_is_the_weighted_one_with_ones():
    model, weighted, ids = make_model(qk_norm="l2"), make_model(qk_norm="rms"), make_ids()
    state = weighted.state_dict() | model.state_dict()
    for name in state.keys() - model.state_dict().keys():
        assert name.endswith(("q_norm.weight", "k_norm.weight"))
        state[name] = torch.ones_like(state[name])
    weighted.load_state_dict(state)
    assert_close(model(ids).logits, weighted(ids).logits)


@pytest.mark.parametrize("pad_left", [True, False])
def test_padding_does_not_change_the_real_tokens(pad_left):
    model, ids = make_model(), make_ids()
    mask = torch.ones(2, 18, dtype=torch.bool)
    mask[:, :5] = False
    mask = mask if pad_left else mask.flip(1)
    padded = torch.zeros(2, 18, dtype=torch.long)
    padded[mask] = ids.flatten()
    logits = model(padded, attention_mask=mask).logits
    assert logits.isfinite().all()
    assert_close(logits[mask].view(2, 13, -1), model(ids).logits)


def test_a_block_mask_isolates_documents():
    model, ids = make_model(), make_ids(1, 12)
    document = torch.tensor([[0] * 5 + [1] * 7])
    mask = document.unsqueeze(-1) == document.unsqueeze(1)
    logits = model(ids, attention_mask=mask).logits
    assert_close(logits[:, :5], model(ids[:, :5]).logits)
    assert_close(logits[:, 5:], model(ids[:, 5:]).logits, 1e-4)


def test_no_token_sees_the_future():
    model, ids = make_model(block_repeats=2, share_kv="first"), make_ids()
    changed = ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 61
    before, after = model(ids).logits, model(changed).logits
    assert_close(before[:, :8], after[:, :8], 1e-6)
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-3)


@pytest.mark.parametrize("share_kv", ["own", "first"])
def test_captures_have_one_entry_per_application(share_kv):
    model = make_model(block_repeats=2, layer_sharing="reverse", share_kv=share_kv)
    ids = make_ids()
    names = ("hidden_states", "attention", "feed_forward")
    output = model(ids, capture=names)
    assert_close(output.logits, model(ids).logits)
    assert {name: len(output.captured[name]) for name in names} == dict.fromkeys(names, 6)
    assert_close(model.norm(output.captured["hidden_states"][-1]), output.hidden)
    weights = output.captured["attention"][3]
    assert weights.shape == (2, 6, 13, 13)
    assert_close(weights.sum(-1), torch.ones(2, 6, 13))
    assert weights.triu(1).abs().max() == 0
    stream, fed = output.captured["hidden_states"][5], output.captured["feed_forward"][5]
    block = model.blocks[model.config.layer_order[5]]
    assert_close(block.feed_forward(block.feed_forward_norm(stream - fed)), fed)
    [embedded] = model(ids, capture=("embedding",)).captured["embedding"]
    assert_close(embedded, model.embedding(ids))


def test_captures_equal_those_of_transformers():
    model, ids = make_model(), make_ids()
    theirs = copy_to_transformers(model)
    theirs.set_attn_implementation("eager")
    wanted = theirs(ids, output_attentions=True, output_hidden_states=True)
    captured = model(ids, capture=("attention", "hidden_states")).captured
    for ours, other in zip(captured["attention"], wanted.attentions, strict=True):
        assert_close(ours, other)
    # Theirs begins with the embedding and has the final norm in its last entry.
    for ours, other in zip(captured["hidden_states"][:-1], wanted.hidden_states[1:-1], strict=True):
        assert_close(ours, other)


def test_hidden_and_unembed_give_the_logits():
    for tied in (True, False):
        model = make_model(tie_word_embeddings=tied)
        output = model(make_ids(), logits=False)
        assert output.logits is None
        assert_close(model.unembed(output.hidden), model(make_ids()).logits)
        assert (model.head is None) == tied


def test_the_same_model_in_bfloat16_stays_near():
    model, ids = make_model(), make_ids()
    wanted = model(ids).logits
    given = model.bfloat16()(ids).logits
    assert given.dtype == torch.bfloat16
    assert (given.float() - wanted).norm() < 0.05 * wanted.norm()


def test_autocast_trains():
    model, ids = make_model(qk_norm="rms", block_repeats=2), make_ids()
    wanted = gradients(model, model(ids).logits.square().mean())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids).logits.float().square().mean()
    for name, gradient in gradients(model, loss).items():
        assert gradient.dtype == torch.float32
        assert (gradient - wanted[name]).norm() < 0.1 * wanted[name].norm(), name


def test_compiled_blocks_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, ids = make_model(block_repeats=2, share_kv="first"), make_ids()
    wanted = gradients(model, model(ids).logits.square().mean())
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    given = gradients(model, model(ids).logits.square().mean())
    for name, gradient in given.items():
        assert_close(gradient, wanted[name])


def test_building_on_the_meta_device_allocates_nothing():
    with torch.device("meta"):
        model = MobileLLM(make_config())
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((2, 33), None, "sequence of 33 tokens is longer than max_position_embeddings=32; shorten"),
        ((4,), None, r"input_ids has shape \(4,\); give token ids \(batch, sequence\)"),
        ((2, 4), torch.ones(2, 4), "attention_mask has type torch.float32; give a bool tensor"),
        (
            (2, 4),
            torch.ones(2, 5, dtype=torch.bool),
            r"attention_mask has shape \(2, 5\); give \(batch, keys\) = \(2, 4\) or",
        ),
    ],
)
def test_wrong_input_is_refused(shape, mask, message):
    with pytest.raises(ValueError, match=message):
        make_model()(torch.zeros(shape, dtype=torch.long), attention_mask=mask)


def test_an_unknown_capture_is_refused():
    with pytest.raises(ValueError, match="capture='attn' is not known; use one of embedding"):
        make_model()(make_ids(), capture=["attn"])
