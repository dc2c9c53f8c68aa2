"""Blocks are brought closer to the dense ones, by their inputs in the compressed model."""

import itertools

import pytest
import torch
from test_masking import batches, make_model

from mobilellm.compression.factorization import Factorization
from mobilellm.compression.refinement import Refinement, refine
from mobilellm.compression.structured_pruning import StructuredPruning

RECIPES = {
    "low rank": (Factorization, {"layers": ["blocks.1.feed_forward.*"], "budget": {"ratio": 0.4}}),
    "channels": (StructuredPruning, {"layers": ["blocks.1.feed_forward.*"], "keep_channels": 0.4}),
    "without a block": (StructuredPruning, {"keep_channels": 0.4, "keep_blocks": 0.7}),
}


TEXT = batches(24)


def output_error(model, dense, block, layer):
    """Mean squared distance of the residual streams after a block, from whole forward passes."""
    total = 0.0
    for batch in TEXT:
        streams = [
            one(batch["input_ids"], capture=("hidden_states",)).captured["hidden_states"]
            for one in (model, dense)
        ]
        total += float((streams[0][block] - streams[1][layer]).square().sum().detach())
    return total


@pytest.mark.parametrize(
    ("name", "layer_sharing"),
    list(zip(RECIPES, itertools.cycle(["repeat_all", "immediate"]), strict=False)),
)
def test_the_output_of_the_block_comes_closer(name, layer_sharing):
    model = make_model(num_blocks=3, block_repeats=2, layer_sharing=layer_sharing)
    recipe, options = RECIPES[name]
    before, after = {}, {}
    steps = {"steps": 40, "learning_rate": 0.005}
    fits = {"fit": "propagated"}, {"fit": "reconstructed", "reconstruction": steps}
    for fit, found in zip(fits, (before, after), strict=True):
        made = recipe(**options, **fit)
        plan = made.plan(model, TEXT)
        found["compressed"] = made.apply(model, plan, TEXT)
        found["plan"] = plan
    assert before["plan"] == after["plan"]
    assert before["compressed"].model.config == after["compressed"].model.config
    refined = after["compressed"].refined
    blocks = range(2) if name == "without a block" else [1]
    assert set(refined) == {f"blocks.{block}" for block in blocks}
    assert all(loss.after < loss.before for loss in refined.values())
    if name != "without a block":
        order = model.config.layer_order
        last = len(order) - 1 - order[::-1].index(1)
        errors = [output_error(f["compressed"].model, model, last, last) for f in (before, after)]
        assert errors[1] < errors[0]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in after["compressed"].model.parameters())


def test_only_blocks_with_compressed_matrices_change():
    model = make_model(num_blocks=3)
    recipe, options = RECIPES["low rank"]
    made = recipe(**options, fit="reconstructed", reconstruction={"steps": 20})
    small = made.apply(model, made.plan(model, TEXT), TEXT).model
    before = model.state_dict()
    changed = {n for n, t in small.state_dict().items() if n in before and (t != before[n]).any()}
    assert changed
    assert all(name.startswith("blocks.1.") for name in changed)


def test_self_distillation_lowers_the_divergence_from_the_dense_model():
    model = make_model(num_blocks=2)
    recipe = StructuredPruning(
        keep_channels=0.4, self_distillation={"steps": 40, "learning_rate": 0.01}
    )
    plan = recipe.plan(model, TEXT)
    compressed = recipe.apply(model, plan, TEXT)
    loss = compressed.refined["self_distillation"]
    assert loss.after < loss.before
    held_out = torch.cat([batch["input_ids"] for batch in TEXT[-3:]])
    with torch.no_grad():
        own, goal = (one(held_out).logits.log_softmax(-1) for one in (compressed.model, model))
    divergence = (goal.exp() * (goal - own)).sum(-1).mean()
    assert float(divergence) == pytest.approx(loss.after, rel=1e-4)


def test_the_weights_with_the_lowest_loss_on_held_out_batches_stay():
    """Steps on the first batches lead away from the last one, whose loss decides."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    goals = [torch.tensor([3.0, 3.0])] * 3 + [torch.tensor([1.2, 1.2])]
    settings = Refinement(steps=50, learning_rate=0.01)
    loss = refine([parameter], lambda i: (parameter - goals[i]).square().sum(), 4, settings)
    assert loss.before == pytest.approx(0.08)
    assert loss.after == pytest.approx(float((parameter - goals[3]).square().sum().detach()))
    assert loss.after < loss.before
    with pytest.raises(ValueError, match=r"has 1 batch, but held_out=0.125 needs at least two"):
        refine([parameter], lambda _: parameter.sum(), 1, settings)


@pytest.mark.parametrize("name", RECIPES)
def test_settings_without_effect_are_refused(name):
    recipe, options = RECIPES[name]
    with pytest.raises(ValueError, match="reconstruction has no effect on fit=outputs; use fit=re"):
        recipe(**options, fit="outputs", reconstruction={"steps": 3})
    model = make_model(num_blocks=3)
    for given in ({"fit": "reconstructed"}, {"self_distillation": {}}):
        with pytest.raises(ValueError, match="the calibration text has 1 batch"):
            recipe(**options, **given).plan(model, TEXT[:1])


def test_a_table_is_no_block():
    recipe = Factorization(layers=["embedding"], fit="reconstructed")
    with pytest.raises(ValueError, match="fit=reconstructed has no effect, because layers="):
        recipe.check(make_model())


def test_blocks_that_share_keys_and_values_are_refused():
    model = make_model(block_repeats=2, share_kv="first")
    for recipe, options in RECIPES.values():
        with pytest.raises(ValueError, match="fit=reconstructed runs the blocks one at a time"):
            recipe(**options, fit="reconstructed").check(model)
