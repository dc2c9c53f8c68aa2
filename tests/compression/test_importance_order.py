"""Sorting the units of a model changes their order and not its function."""

import pytest
import torch
from reference_models import SHARED, assert_close, make_ids, make_model

from mobilellm.compression.importance_order import sorted_by_importance, stream_importance
from mobilellm.search.supernet import extract
from mobilellm.search.supernet_shape import shape_inside


def batches(number=2):
    ids = torch.randint(0, 61, (number, 3, 10), generator=torch.Generator().manual_seed(7))
    return [{"input_ids": one[:, :-1], "labels": one[:, 1:]} for one in ids]


VARIANTS = [
    *({"layer_sharing": s, "block_repeats": 2} for s in SHARED),
    {"tie_word_embeddings": False, "qk_norm": "rms"},
    {"num_key_value_heads": 1}, {"num_key_value_heads": 6}, {"feed_forward": "relu"},
    {"share_kv": "first", "block_repeats": 2}, {"intermediate_size": (40, 24, 8)},
]  # fmt: skip


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize("changes", VARIANTS)
def test_the_sorted_model_computes_the_same(changes):
    model = make_model(**changes)
    ordered, ids = sorted_by_importance(model, batches()), make_ids()
    assert_close(ordered(ids).logits, model(ids).logits, 1e-4)
    assert ordered.config == model.config
    moved = [n for n, p in ordered.named_parameters() if not torch.equal(p, model.get_parameter(n))]
    assert len(moved) > len(list(model.parameters())) / 2


def test_units_that_do_nothing_come_last():
    """Units without effect, planted at the front, are behind all others after sorting."""
    model = make_model()
    with torch.no_grad():
        model.blocks[1].feed_forward.down_proj.weight[:, :5] = 0  # the first channels
        model.blocks[1].attention.o_proj.weight[:, :12] = 0  # the first group of 3 heads
        model.blocks[0].attention.o_proj.weight[:, 4:8] = 0  # head 1, in the first group
    ordered = sorted_by_importance(model, batches())
    down = ordered.blocks[1].feed_forward.down_proj.weight
    assert not down[:, -5:].any()
    assert down[:, :-5].abs().sum(0).min() > 0
    assert not ordered.blocks[1].attention.o_proj.weight[:, 12:].any()
    inside = ordered.blocks[0].attention.o_proj.weight.abs().sum(0).view(6, 4).sum(1)
    group = int((inside == 0).nonzero()) // 3
    assert inside[3 * group + 2] == 0, "last in its group"


def test_stream_importance_is_the_mean_size_of_the_norms_outputs():
    model, batch = make_model(block_repeats=2), batches(1)
    found = stream_importance(model, batch)

    def normed(x, norm):
        return (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight).abs()

    with torch.no_grad():
        output = model(batch[0]["input_ids"], capture=("embedding", "hidden_states"))
        x = output.captured["embedding"][0]
        total = torch.zeros(24)
        for index, after in zip(
            model.config.layer_order, output.captured["hidden_states"], strict=True
        ):
            block = model.blocks[index]
            total += normed(x, block.attention_norm).sum((0, 1))
            middle = x + attention_of(block, x)
            total += normed(middle, block.feed_forward_norm).sum((0, 1))
            x = after
        total += normed(x, model.norm).sum((0, 1))
    assert_close(found.float(), total, 1e-3)


def attention_of(block, x):
    from mobilellm.models.rotary import make_rotary

    rotary = make_rotary(torch.arange(x.shape[1])[None], 4, 1e4)
    return block.attention(block.attention_norm(x), rotary)[0]


def test_leading_slices_of_the_sorted_model_are_better_than_trailing_ones():
    """Slices of a sorted model lose less than those of the model sorted the other way round."""
    model = make_model()
    with torch.no_grad():  # units of very different size
        for block in model.blocks:
            block.feed_forward.down_proj.weight *= torch.logspace(-2, 1, 40)
            block.attention.o_proj.weight *= torch.logspace(-2, 0.5, 24)
    shape = shape_inside(model.config, intermediate_size=10, num_attention_heads=3)
    ids = make_ids()
    kept = extract(sorted_by_importance(model, batches()), shape)(ids).logits
    first = extract(model, shape)(ids).logits  # the least important, as they were made
    whole = model(ids).logits
    assert (kept - whole).square().mean() < 0.5 * (first - whole).square().mean()
