"""When the stages begin, which layers they take, and what of a checkpoint survives one."""

import pytest
import torch
from low_rank_recipe import LowRank
from small_run import fit, make_data, make_model, make_module

from mobilellm.callbacks.checkpoint import CheckpointCallback
from mobilellm.compression.stages import Stages, group_layers, stage_starts
from mobilellm.optim import adamw, muon
from mobilellm.training.carry_over import carry_over

CONFIG = make_model().config
NAMES = [name for name in CONFIG.matrix_sizes if "feed_forward" in name]


@pytest.mark.parametrize(
    ("total", "number", "options", "starts"),
    [
        (100, 4, {}, (0, 25, 50, 75)),
        (None, 1, {}, (0,)),
        (100, 1, {"first_start": 0.3}, (30,)),
        (100, 2, {"first_start": 0.2}, (20, 60)),
        (100, 3, {"first_start": 0.2, "recovery_share": 0.1}, (20, 30, 40)),
        (7, 3, {}, (0, 2, 5)),
    ],
)
def test_starts(total, number, options, starts):
    assert stage_starts(total, number, **options) == starts


@pytest.mark.parametrize(
    ("total", "number", "options", "message"),
    [
        (100, 0, {}, "num_stages=0 must be a whole number of at least 1"),
        (100, 1, {"first_start": 1.0}, "first_start=1.0 is a share"),
        (100, 2, {"recovery_share": 0.0}, "recovery_share=0.0 is a share"),
        (
            100,
            3,
            {"first_start": 0.5, "recovery_share": 0.25},
            "begins at step 100, but the run ends",
        ),
        (3, 5, {}, "the stages begin at steps 0, 1, 1, 2, 2, which must increase"),
        (None, 2, {}, "limited only by time; give max_tokens or max_steps"),
    ],
)
def test_starts_that_cannot_be_are_refused(total, number, options, message):
    with pytest.raises(ValueError, match=message):
        stage_starts(total, number, **options)


@pytest.mark.parametrize(
    ("groups", "starts", "message"),
    [
        ((("a", "b"), ("b",)), (0, 1), "b is in stage 1 and in stage 2; compress each layer once"),
        ((("a",), ()), (0, 1), "stage 2 compresses no layer"),
        ((("a",), ("b",)), (3, 3), "the stages begin at steps 3, 3, which must increase"),
        ((("a",),), (-1,), "the stages begin at steps -1, which must increase and not be negative"),
        ((("a",),), (0, 1), "there are 1 groups of layers and 2 starts"),
    ],
)
def test_stages_that_contradict_themselves_are_refused(groups, starts, message):
    with pytest.raises(ValueError, match=message):
        Stages(groups, starts)


def test_stages_are_plain_data():
    stages = Stages((("a", "b"), ("c",)), (0, 5))
    assert Stages.from_dict(stages.to_dict()) == stages


def test_orders_of_the_layers():
    shuffled = NAMES[::-1]
    forward = group_layers(CONFIG, shuffled, num_stages=2)
    assert forward == (tuple(NAMES[:3]), tuple(NAMES[3:]))
    backward = group_layers(CONFIG, NAMES, num_stages=4, order="backward")
    assert sum(backward, ()) == tuple(NAMES[::-1])
    assert sorted(map(len, backward)) == [1, 1, 2, 2]
    errors = dict(zip(NAMES, (0.3, 0.1, 0.2, 0.6, 0.5, 0.4), strict=True))
    tender = group_layers(CONFIG, NAMES, num_stages=3, order="least_sensitive", errors=errors)
    assert sum(tender, ()) == tuple(sorted(NAMES, key=errors.__getitem__))
    given = group_layers(
        CONFIG, NAMES, num_stages=2, order="given",
        patterns=[["*.down_proj"], ["*.gate_proj", "blocks.*.up_proj"]],
    )  # fmt: skip
    assert given[0] == (NAMES[2], NAMES[5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_stages": 7}, "num_stages=7 is more than the 6 layers"),
        ({"order": "sideways"}, "order='sideways' is not known"),
        ({"order": "least_sensitive", "errors": {}}, "gives none for blocks.0"),
        ({"order": "given", "patterns": [["nothing"]]}, "nothing"),
        ({"order": "given", "patterns": [["embedding"]]}, "stage 1, embedding, names none of the"),
        ({"order": "given", "patterns": [["blocks.0.*"]]}, "groups leaves out blocks.1"),
        ({"order": "given", "patterns": [["blocks.*"], ["blocks.0.*.up_proj"]]},
         "up_proj is in stage 1 and in stage 2"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        group_layers(CONFIG, NAMES, **{"num_stages": 1, **options})


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


def test_calibration_does_not_depend_on_where_the_run_stands():
    first, later = make_data(4), make_data(2)
    later.load_state_dict({"consumed_samples": 24})
    batches, again = first.calibration_batches(161), later.calibration_batches(161)
    assert [len(batch["input_ids"]) for batch in batches] == [8, 3]
    for a, b in zip(batches, again, strict=True):
        assert torch.equal(a["input_ids"], b["input_ids"])
    with pytest.raises(ValueError, match="calibration_tokens=2000 is more than the training split"):
        first.calibration_batches(2000)
