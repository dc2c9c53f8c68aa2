"""What of a checkpoint survives a compression of its model."""

import pytest
import torch
from low_rank_recipe import LowRank
from small_run import fit, make_data, make_module

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.optim import adamw, muon
from mobilellm.training.carry_over import carry_over


def trained_checkpoint(folder, optimizer):
    saver = CheckpointCallback(folder)
    module = make_module(4, optimizer=optimizer)
    fit(module, make_data(), callbacks=[saver])
    return module, torch.load(saver.last_path, weights_only=True)


def named_state(state, module):
    """The optimizer's state in a checkpoint, by the names of the parameters it belongs to."""
    optimizer = module.configure_optimizers()
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    ordered = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert [n for g in state["param_groups"] for n in g["params"]] == list(range(len(ordered)))
    return {ordered[number]: values for number, values in state["state"].items()}


@pytest.mark.parametrize("optimizer", [adamw, muon])
@pytest.mark.parametrize("layers", [("blocks.0.feed_forward.*", "embedding"), ("blocks.*",)])
def test_state_of_untouched_parameters_survives_and_new_ones_are_empty(tmp_path, optimizer, layers):
    old, checkpoint = trained_checkpoint(tmp_path, optimizer)
    recipe = LowRank(layers=layers)
    plan = recipe.plan(old.model, [])
    new = make_module(4, optimizer=optimizer, model=recipe.apply(old.model, plan, []).model)
    result = carry_over(checkpoint, old, new)
    before = named_state(checkpoint["optimizer_states"][0], old)
    after = named_state(result["optimizer_states"][0], new)
    expected = {name for name in before if name.removesuffix(".weight") not in plan.names}
    assert set(after) == expected
    assert len(expected) < len(before)
    for name, values in after.items():
        for key, value in values.items():
            assert torch.equal(value, before[name][key])
    # All else is what it was, and another run goes on with it.
    changed = {"state_dict", "model_config", "optimizer_states"}
    assert all(result[key] is checkpoint[key] for key in checkpoint if key not in changed)
    optimizer_state = new.configure_optimizers()
    optimizer_state.load_state_dict(result["optimizer_states"][0])
    assert {g["initial_lr"] for g in optimizer_state.param_groups} == {1e-2}
    rates = {group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
    assert {group["lr"] for group in optimizer_state.param_groups} <= rates | {1e-2}


def test_permuted_weights_do_not_keep_their_state(tmp_path):
    """Same name and size, other values: moments belong to entries that are elsewhere now."""
    old, checkpoint = trained_checkpoint(tmp_path, adamw)
    new = make_module(4)
    new.model.load_state_dict(old.model.state_dict())
    name = "blocks.0.feed_forward.up_proj.weight"
    with torch.no_grad():
        new.model.get_parameter(name).copy_(old.model.get_parameter(name).flip(0))
    result = carry_over(checkpoint, old, new)
    before = named_state(checkpoint["optimizer_states"][0], old)
    assert set(named_state(result["optimizer_states"][0], new)) == set(before) - {name}
