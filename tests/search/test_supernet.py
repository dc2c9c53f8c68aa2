"""Sub-networks compute what the definition of the model computes with weights picked by hand."""

import math

import pytest
import torch
from reference_models import assert_close, naive_forward

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.search.supernet import Supernet, extract
from mobilellm.search.supernet_shape import kept_blocks, shape_inside
from mobilellm.search.supernet_space import SupernetSpace

VOCAB, HEAD_DIM = 31, 4


def make_supernet(seed=0, **changes):
    sizes = {
        "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 20, "num_blocks": 5,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": HEAD_DIM,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    model = MobileLLM(ModelConfig(**sizes))
    for parameter in model.parameters():  # norms too, whose initial weights are all ones
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def picked_by_hand(parent, shape):
    """A model of the shape whose weights are picked one list of indices after the other."""
    whole, dim, stream = parent.config, shape.head_dim, list(range(shape.hidden_size))
    gap = (whole.num_blocks - 1) / max(1, shape.num_blocks - 1)
    blocks = [math.floor(i * gap + 0.5) for i in range(shape.num_blocks)]
    source, picked = parent.state_dict(), {}
    for name in ("embedding.weight", "head.weight"):
        if name in source:
            picked[name] = source[name][:, stream]
    picked["norm.weight"] = source["norm.weight"][stream]
    for place, block in enumerate(blocks):
        own, their = shape.block_shapes[place], whole.block_shapes[block]
        kept_group = own.num_attention_heads // own.num_key_value_heads
        group = their.num_attention_heads // their.num_key_value_heads
        channels = list(range(own.intermediate_size))
        keys = [head * dim + i for head in range(own.num_key_value_heads) for i in range(dim)]
        queries = [
            (which * group + head) * dim + i
            for which in range(own.num_key_value_heads)
            for head in range(kept_group)
            for i in range(dim)
        ]
        axes = {
            "attention_norm": (stream,), "feed_forward_norm": (stream,),
            "attention.q_norm": (range(dim),), "attention.k_norm": (range(dim),),
            "attention.q_proj": (queries, stream), "attention.k_proj": (keys, stream),
            "attention.v_proj": (keys, stream), "attention.o_proj": (stream, queries),
            "feed_forward.gate_proj": (channels, stream),
            "feed_forward.up_proj": (channels, stream),
            "feed_forward.down_proj": (stream, channels),
        }  # fmt: skip
        for name, indices in axes.items():
            weight = source.get(f"blocks.{block}.{name}.weight")
            if weight is not None:
                for axis, kept in enumerate(indices):
                    weight = weight.index_select(axis, torch.tensor(list(kept)))
                picked[f"blocks.{place}.{name}.weight"] = weight
    model = MobileLLM(shape)
    model.load_state_dict(picked)
    return model


VARIANTS = {
    "plain": {},
    "immediate": {"block_repeats": 2},
    "repeat_all": {"block_repeats": 2, "layer_sharing": "repeat_all"},
    "reverse": {"block_repeats": 3, "layer_sharing": "reverse"},
    "shared_keys": {"block_repeats": 2, "share_kv": "first"},
    "untied": {"tie_word_embeddings": False},
    "qk_rms": {"qk_norm": "rms"},
    "relu": {"feed_forward": "relu"},
    "one_group": {"num_key_value_heads": 1},
    "no_groups": {"num_key_value_heads": 6},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_sub_network_is_the_model_of_its_slices(variant, seed):
    model = make_supernet(seed, **VARIANTS[variant])
    pick = torch.Generator().manual_seed(100 * seed + len(variant))

    def up_to(largest):
        return int(torch.randint(1, largest + 1, (), generator=pick))

    groups = up_to(model.config.num_key_value_heads)
    size = up_to(model.config.num_attention_heads // model.config.num_key_value_heads)
    shape = shape_inside(
        model.config, num_blocks=up_to(5), hidden_size=up_to(24), intermediate_size=up_to(20),
        num_attention_heads=groups * size, num_key_value_heads=groups,
    )  # fmt: skip
    ids = torch.randint(VOCAB, (1, 6), generator=pick)
    expected = naive_forward(picked_by_hand(model, shape), ids)
    found = Supernet(model).sub_network(shape)(ids).logits
    assert_close(found, expected)
    small = extract(model, shape)
    torch.testing.assert_close(small(ids).logits, found, atol=1e-5, rtol=0)
    assert small.config == shape
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_the_whole_shape_is_the_model_itself():
    model = make_supernet()
    ids = torch.randint(VOCAB, (2, 7))
    whole = Supernet(model).sub_network(shape_inside(model.config))
    assert torch.equal(whole(ids).logits, model(ids).logits)


def test_sizes_may_differ_between_blocks():
    model = make_supernet(intermediate_size=(20, 12, 18, 16, 14))
    ids = torch.randint(VOCAB, (1, 5))
    inherited = shape_inside(model.config, num_blocks=3, hidden_size=16)
    assert inherited.intermediate_size == (20, 18, 14)
    for widths in (8, (3, 11, 7)):
        shape = shape_inside(model.config, num_blocks=3, intermediate_size=widths)
        found = Supernet(model).sub_network(shape)(ids).logits
        assert_close(found, naive_forward(picked_by_hand(model, shape), ids))


def test_gradients_reach_the_slices_and_nothing_else():
    model = make_supernet()
    shape = shape_inside(model.config, num_blocks=2, hidden_size=10, intermediate_size=7,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    small = extract(model, shape)
    ids = torch.randint(VOCAB, (2, 6))
    for network in (Supernet(model).sub_network(shape), small):
        network(ids).logits.logsumexp(-1).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("blocks.1.", "blocks.2.", "blocks.3.")) for name in gradients)
    table = gradients["embedding.weight"]
    torch.testing.assert_close(table[:, :10], small.embedding.weight.grad)
    assert not table[:, 10:].any()
    query = gradients["blocks.4.attention.q_proj.weight"]  # heads 0 and 2 of 6
    rows = [0, 1, 2, 3, 8, 9, 10, 11]
    torch.testing.assert_close(query[rows, :10], small.blocks[1].attention.q_proj.weight.grad)
    assert int((query != 0).sum()) == len(rows) * 10


def test_a_sub_network_follows_the_weights_and_an_extracted_model_does_not():
    model = make_supernet()
    shape = shape_inside(model.config, hidden_size=8)
    ids = torch.randint(VOCAB, (1, 5))
    supernet, small = Supernet(model), extract(model, shape)
    before = supernet.sub_network(shape)(ids).logits
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = supernet.sub_network(shape)(ids).logits
    assert (after - before).abs().max() > 0.1
    assert torch.equal(small(ids).logits, before)
    assert not list(supernet.sub_network(shape).parameters())


@pytest.mark.parametrize(
    ("num_blocks", "count", "expected"),
    [(5, 5, (0, 1, 2, 3, 4)), (5, 3, (0, 2, 4)), (5, 2, (0, 4)), (5, 1, (0,)), (6, 3, (0, 3, 5)),
     (12, 4, (0, 4, 7, 11)), (1, 1, (0,))],
)  # fmt: skip
def test_kept_blocks_are_spread_and_include_both_ends(num_blocks, count, expected):
    assert kept_blocks(num_blocks, count) == expected


@pytest.mark.parametrize("num_blocks", range(1, 30))
def test_kept_blocks_are_different_and_ascending(num_blocks):
    for count in range(1, num_blocks + 1):
        kept = kept_blocks(num_blocks, count)
        assert len(set(kept)) == count
        assert list(kept) == sorted(kept)
        assert 0 <= kept[0] <= kept[-1] < num_blocks


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_blocks": 6}, "num_blocks=6 is not contained in a model of 5 blocks; give 1 to 5"),
        ({"num_blocks": 0}, "num_blocks=0 is not contained"),
        ({"hidden_size": 25}, "hidden_size=25 is larger than the supernet's; give at most 24"),
        ({"intermediate_size": 21}, "intermediate_size=21 is larger .* give at most 20"),
        ({"num_attention_heads": 8}, "num_key_value_heads=4 is larger .* give at most 3"),
        ({"num_attention_heads": 3}, "num_attention_heads=3 is not a multiple of the supernet's 2"),
        (
            {"num_attention_heads": 3, "num_key_value_heads": 1},
            "has 3 query heads per key-value head, and the supernet has 2; give at most 2 times",
        ),
    ],
)
def test_shapes_that_are_not_contained_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        shape_inside(make_supernet().config, **sizes)


def test_other_fields_must_be_those_of_the_supernet():
    model = make_supernet()
    other = make_supernet(rope_theta=5e5).config
    with pytest.raises(ValueError, match=r"rope_theta=500000.0 differs from the supernet's"):
        Supernet(model).sub_network(other)


@pytest.mark.usefixtures("uneven_schemes")
def test_schemes_that_would_change_the_order_keep_all_blocks():
    model = make_supernet(layer_sharing="last_first", block_repeats=2)
    with pytest.raises(ValueError, match=r"runs 4 blocks in another order than .* keep all 5"):
        shape_inside(model.config, num_blocks=4)
    shape, ids = shape_inside(model.config, hidden_size=12), torch.randint(VOCAB, (1, 5))
    found = Supernet(model).sub_network(shape)(ids).logits
    assert_close(found, naive_forward(picked_by_hand(model, shape), ids))


def test_compressed_matrices_cannot_be_sliced():
    name = "blocks.0.feed_forward.up_proj"
    model = make_supernet(compressed_layers={name: {"nonzero": 200}})
    with pytest.raises(ValueError, match=f"{name} is compressed, and slices are taken from dense"):
        extract(model, model.config)


SPACE = SupernetSpace(num_blocks=[2, 5], hidden_size=[8, 16, 24], num_attention_heads=[2, 6])


def test_a_space_lists_every_combination_once():
    config = make_supernet().config
    shapes = list(SPACE.shapes(config))
    assert len(shapes) == len(set(shapes)) == SPACE.num_shapes == 12
    assert {(s.num_blocks, s.hidden_size, s.num_key_value_heads) for s in shapes} == {
        (b, h, g) for b in (2, 5) for h in (8, 16, 24) for g in (1, 3)
    }
    assert shapes[-1] == config
    assert shapes[0] == SPACE.smallest(config)
    assert all(SPACE.contains(shape, config) for shape in shapes)
    assert not SPACE.contains(shape_inside(config, hidden_size=12), config)
    assert not SPACE.contains(shape_inside(config, intermediate_size=12), config)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_blocks": [5, 2]}, r"space.num_blocks=\[5, 2\] must be different sizes in ascending"),
        ({"num_blocks": []}, r"space.num_blocks=\[\] must be"),
        ({"num_blocks": [0, 5]}, "num_blocks=.* must be"),
        ({"num_key_value_heads": [3]}, "without space.num_attention_heads; give both"),
    ],
)
def test_senseless_spaces_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        SupernetSpace(**sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"num_blocks": [2, 4]},
            r"must end with the size of the supernet itself, model.num_blocks",
        ),
        ({"hidden_size": [8, 32]}, "must end with the size of the supernet itself"),
        ({"num_attention_heads": [3, 6]}, "space: num_attention_heads=3: .* is not a multiple"),
        (
            {"num_attention_heads": [3, 6], "num_key_value_heads": [1, 3]},
            "space: num_attention_heads=3, num_key_value_heads=1: .* has 3 query heads",
        ),
    ],
)
def test_spaces_must_fit_the_supernet(sizes, message):
    with pytest.raises(ValueError, match=message):
        SupernetSpace(**sizes).check(make_supernet().config)
