"""Structured pruning: smaller dense models against the whole one with parts silenced."""

import math
from dataclasses import replace

import pytest
import torch
from test_masking import SCHEMES, batches, make_model

from mobilellm.checkpoint import load_model, save_model
from mobilellm.compression.calibration import gather_moments
from mobilellm.compression.pruning import Pruning
from mobilellm.compression.structured_cut import pruned_model
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.evaluation.validation import sum_losses

VARIANTS = [{"layer_sharing": scheme, "block_repeats": 2, "share_kv": kv}
            for scheme in SCHEMES for kv in ("own", "first")] + [
    {"num_key_value_heads": 6, "qk_norm": "rms"}, {"feed_forward": "relu"},
    {"tie_word_embeddings": False, "intermediate_size": [40, 24, 32]},
]  # fmt: skip
IDS = batches()[0]["input_ids"]


def model_of(**changes):
    return make_model(**({"num_blocks": 3} | changes))


def silenced(model, plan):
    """A whole model whose output projections do not see what the plan removes."""
    model = pruned_model(model, StructuredPlan.whole(model.config))
    size = model.config.head_dim
    with torch.no_grad():
        for block, heads, channels in zip(plan.blocks, plan.heads, plan.channels, strict=True):
            down = model.blocks[block].feed_forward.down_proj.weight
            out = model.blocks[block].attention.o_proj.weight
            for channel in set(range(down.shape[1])) - set(channels):
                down[:, channel] = 0
            for head in set(range(out.shape[1] // size)) - set(heads):
                out[:, head * size : (head + 1) * size] = 0
        for block in set(range(model.config.num_blocks)) - set(plan.blocks):
            model.blocks[block].feed_forward.down_proj.weight.zero_()
            model.blocks[block].attention.o_proj.weight.zero_()
    return model


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("head_unit", ["groups", "within_groups"])
@pytest.mark.parametrize("importance", ["taylor", "outputs", "elimination"])
def test_the_smaller_model_is_the_whole_one_with_parts_silenced(
    changes, head_unit, importance, tmp_path
):
    model = model_of(**changes)
    if head_unit == "within_groups" and model.config.num_key_value_heads == 6:
        head_unit = "groups"
    recipe = StructuredPruning(
        keep_channels=0.6, keep_heads=0.5, keep_blocks=0.7, head_unit=head_unit,
        importance=importance, fit="weights",
    )  # fmt: skip
    recipe.check(model)
    plan = recipe.plan(model, batches())
    assert StructuredPlan.from_dict(plan.to_dict()) == plan
    small = recipe.apply(model, plan, batches()).model
    assert small.config == plan.config_after(model.config)
    assert small.config.num_blocks == 2
    assert torch.allclose(small(IDS).logits, silenced(model, plan)(IDS).logits, atol=1e-5)
    kv_kept = model.config.num_key_value_heads // (2 if head_unit == "groups" else 1)
    for block, kept in enumerate(plan.blocks):
        before, shape = model.config.block_shapes[kept], small.config.block_shapes[block]
        assert shape.intermediate_size == math.floor(0.6 * before.intermediate_size + 0.5)
        assert shape.num_key_value_heads == kv_kept
        within = 6 * 2 // 3 if head_unit == "within_groups" else 3
        assert shape.num_attention_heads == within
    sizes = small.config.matrix_sizes.values()
    matrices = sum(p.numel() for p in small.parameters() if p.dim() == 2)
    assert matrices == sum(rows * columns for rows, columns in sizes)
    save_model(small, tmp_path)
    assert torch.equal(load_model(tmp_path)(IDS).logits, small(IDS).logits)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_removing_a_block_is_skipping_it_everywhere(scheme, gone):
    model = model_of(layer_sharing=scheme, block_repeats=2)
    plan = StructuredPlan.whole(model.config, [b for b in range(3) if b != gone])
    small = pruned_model(model, plan)
    model.blocks[gone].register_forward_hook(lambda _, args, out: out._replace(hidden=args[0]))
    assert torch.allclose(small(IDS).logits, model(IDS).logits, atol=1e-5)


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize("scheme", ["sandwich", "last_first"])
def test_blocks_of_a_scheme_that_would_change_the_order_stay(scheme):
    model = model_of(layer_sharing=scheme, block_repeats=2)
    with pytest.raises(ValueError, match=f"layer_sharing='{scheme}' would run the remaining"):
        StructuredPruning(keep_blocks=0.67).check(model)
    StructuredPruning(keep_blocks=1.0, keep_channels=0.5).check(model)
    plan = StructuredPlan.whole(model.config, [1, 2])
    with pytest.raises(ValueError, match=r"runs 2 blocks in the order .*; keep all blocks, or use"):
        pruned_model(model, plan)


def test_what_is_left_is_known_before_any_data_are_read():
    config = model_of(
        num_blocks=4, num_attention_heads=[4, 2, 4, 8], num_key_value_heads=[2, 2, 4, 2],
        intermediate_size=[8, 16, 24, 40], head_dim=4,
    ).config  # fmt: skip
    recipe = StructuredPruning(keep_heads=0.5, keep_channels=0.5)
    [after] = recipe.configs_after(config)
    assert after.num_attention_heads == (2, 1, 2, 4)
    assert after.num_key_value_heads == (1, 1, 2, 1)
    assert after.intermediate_size == (4, 8, 12, 20)
    within = StructuredPruning(keep_heads=0.5, head_unit="within_groups")
    even = model_of(num_attention_heads=8, num_key_value_heads=2, head_dim=4).config
    [after] = within.configs_after(even)
    assert (after.num_attention_heads, after.num_key_value_heads) == (4, 2)
    # Two of four blocks stay, nobody knows which: each may stand where two others might.
    found = StructuredPruning(keep_blocks=0.5).configs_after(config)
    assert [one.num_attention_heads for one in found] == [(4, 2), (2, 4), (4, 8)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_plan_leads_to_one_of_the_announced_architectures(scheme):
    model = model_of(layer_sharing=scheme, block_repeats=2)
    for options in ({"keep_heads": 0.5}, {"keep_blocks": 0.67, "keep_channels": 0.3}):
        recipe = StructuredPruning(**options)
        plan = recipe.plan(model, batches())
        assert plan.config_after(model.config) in recipe.configs_after(model.config)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_block_whose_loss_is_missed_least_goes(scheme):
    model = model_of(layer_sharing=scheme, block_repeats=2)
    losses = []
    for gone in range(3):
        keep = [b for b in range(3) if b != gone]
        plan = StructuredPlan.whole(model.config, keep)
        losses.append(sum_losses(silenced(model, plan), batches()).loss)
    plan = StructuredPruning(keep_blocks=0.67).plan(model, batches())
    assert set(range(3)) - set(plan.blocks) == {min(range(3), key=losses.__getitem__)}


def test_the_block_that_turns_least_goes():
    model = model_of(layer_sharing="reverse", block_repeats=2)
    with torch.no_grad():
        model.blocks[1].attention.o_proj.weight.mul_(1e-3)
        model.blocks[1].feed_forward.down_proj.weight.mul_(1e-3)
    recipe = StructuredPruning(keep_blocks=0.67, block_importance="block_influence")
    assert recipe.plan(model, batches()).blocks == (0, 2)


@pytest.mark.parametrize("changes", VARIANTS[:6:2], ids=str)
def test_reconstruction_is_the_least_squares_fit(changes):
    model = model_of(**changes)
    recipe = StructuredPruning(keep_channels=0.5, keep_heads=0.5, fit="outputs")
    plan = recipe.plan(model, batches())
    fitted = recipe.apply(model, plan, batches())
    plain = StructuredPruning(keep_channels=0.5, keep_heads=0.5, fit="weights")
    cut = plain.apply(model, plan, batches())
    assert len(fitted.errors) == 6
    assert all(fitted.errors[name] < cut.errors[name] for name in cut.errors)
    name, seen = "blocks.1.feed_forward.down_proj", []
    layer = model.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    for batch in batches():
        model(batch["input_ids"])
    hook.remove()
    x = torch.cat(seen).double()
    kept, goal = x[:, list(plan.channels[1])], x @ layer.weight.double().T
    best = torch.linalg.lstsq(kept, goal).solution.T
    given = fitted.model.get_submodule(name).weight.double()
    assert torch.allclose(given, best, atol=2e-3)
    error = (kept @ given.T - goal).norm() / goal.norm()
    assert fitted.errors[name] == pytest.approx(error.item(), rel=1e-3)


def test_propagated_inputs_are_those_of_the_cut_model():
    """The last layer's columns are the least-squares fit on what the smaller model feeds it."""
    model = model_of()
    recipe = StructuredPruning(keep_channels=0.5, keep_heads=0.5)
    plan = recipe.plan(model, batches())
    small = recipe.apply(model, plan, batches()).model
    # The same model, but with the last block's channels all there.
    whole = replace(plan, channels=(*plan.channels[:2], tuple(range(40))))
    before = recipe.apply(model, whole, batches()).model
    name = "blocks.2.feed_forward.down_proj"
    moment = gather_moments(before, batches(), [name])[name].inputs
    kept = list(plan.channels[2])
    weight = model.get_submodule(name).weight.double()
    best = torch.linalg.lstsq(moment[kept][:, kept], (weight @ moment[:, kept]).T).solution.T
    assert torch.allclose(small.get_submodule(name).weight.double(), best, atol=2e-3)


def test_a_compressed_table_stays_and_the_model_is_left_as_it_is():
    model = model_of()
    masking = Pruning(layers=["embedding"], method="magnitude")
    model = masking.apply(model, masking.plan(model, []), []).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = StructuredPruning(keep_channels=0.5)
    small = recipe.apply(model, recipe.plan(model, batches()), batches()).model
    assert small.config.compressed_layers == model.config.compressed_layers
    assert torch.equal(small.embedding.mask, model.embedding.mask)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "nothing to prune; give at least one of keep_channels, keep_heads, keep_blocks"),
        ({"keep_heads": 0.0}, "keep_heads=0.0 must be above 0"),
        ({"keep_blocks": 1.5}, "keep_blocks=1.5 must be above 0 and at most 1"),
        ({"keep_heads": 0.5, "head_unit": "group"}, "head_unit='group' is not known; use one of g"),
        ({"keep_heads": 0.2}, "keep_heads=0.2 of 2 keeps none; give at least 0.5"),
        ({"keep_blocks": 0.9}, "keep_blocks=0.9 of 3 keeps all; give at most 0.667"),
        ({"keep_blocks": 0.5, "fit": "outputs"}, "fit=outputs has no effect without keep_channel"),
        ({"keep_blocks": 0.5, "layers": ["blocks.1.*"]}, "removes whole blocks, so layers="),
        (
            {"keep_channels": 0.5, "layers": ["*.down_proj"]},
            "selects a part of blocks.0.feed_forward without blocks.0.feed_forward.gate_proj",
        ),
        ({"keep_heads": 0.5, "layers": ["*.[qkv]_proj"]}, "without blocks.0.attention.o_proj"),
        (
            {"keep_heads": 0.5, "layers": ["*.feed_forward.*"]},
            "selects no attention layer; add blo",
        ),
        (
            {"keep_heads": 0.5, "fit": "reconstructed", "reconstruction": {"step": 3}},
            "reconstruction: .*it has steps",
        ),
        ({"keep_heads": 0.5, "self_distillation": {"steps": 0}}, "self_distillation: steps=0 mu"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        StructuredPruning(**fields).check(model_of())


def test_compressed_blocks_are_refused():
    model, masking = model_of(), Pruning(layers=["blocks.1.*.up_proj"], method="magnitude")
    masked = masking.apply(model, masking.plan(model, []), []).model
    with pytest.raises(
        ValueError, match=r"blocks.1.feed_forward.up_proj is compressed already.*pr"
    ):
        StructuredPruning(keep_blocks=0.5).check(masked)


def test_plans_that_do_not_fit_are_refused():
    whole = StructuredPlan.whole(model_of().config)
    with pytest.raises(ValueError, match="blocks keeps nothing"):
        StructuredPlan(blocks=(), heads=(), channels=())
    with pytest.raises(ValueError, match="heads is given for 3 blocks, but 1 are kept"):
        StructuredPlan(blocks=(0,), heads=whole.heads, channels=whole.channels[:1])
    with pytest.raises(ValueError, match="different whole numbers >= 0 in ascending order"):
        StructuredPlan(blocks=(1, 0, 2), heads=whole.heads, channels=whole.channels)
    with pytest.raises(ValueError, match="channels of block 0 keeps 39, but the model has the i"):
        whole.config_after(model_of(intermediate_size=32).config)
    uneven = StructuredPlan(blocks=(0,), heads=((0, 1, 3),), channels=((0,),))
    with pytest.raises(ValueError, match="keep the same number of query heads in each"):
        uneven.config_after(model_of().config)
