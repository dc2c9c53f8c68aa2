"""Which heads and channels structured pruning keeps."""

import pytest
import torch
from test_masking import SCHEMES, batches
from test_structured_pruning import model_of

from mobilellm.compression.algorithms.importance import output_importance, taylor_importance
from mobilellm.compression.calibration import gather_moments
from mobilellm.compression.kept_units import KeptUnits, loss_sum
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.evaluation.validation import sum_losses


def units_of(model):
    """The units of half of the channels and groups of heads."""
    return KeptUnits(
        config=model.config, layers=["blocks.*"], keep_channels=0.5, keep_heads=0.5,
        head_unit="groups", importance="outputs",
    )  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_taylor_importance_is_the_slope_of_fading_a_unit_out(scheme):
    """Finite differences of each sequence's loss, in all uses of the block at once."""
    model = model_of(layer_sharing=scheme, block_repeats=2, num_blocks=2).double()
    calibration = batches(2)
    cut = units_of(model).couplings
    chosen = [cut["blocks.1.hidden"], cut["blocks.0.heads"]]
    scores = taylor_importance(model, chosen, calibration, lambda batch: loss_sum(model, batch))
    rows = [{k: v[i : i + 1] for k, v in b.items()} for b in calibration for i in range(4)]
    for coupling in chosen:
        weight = model.get_submodule(coupling.columns[0]).weight
        for unit in range(0, coupling.num_units, 7):
            part = slice(unit * coupling.unit, (unit + 1) * coupling.unit)
            losses = []
            for scale in (1 + 1e-3, (1 - 1e-3) / (1 + 1e-3)):
                with torch.no_grad():
                    weight[:, part] *= scale
                losses.append([sum_losses(model, [row]).nats for row in rows])
            with torch.no_grad():
                weight[:, part] /= 1 - 1e-3
            slopes = [abs(up - down) / 2e-3 for up, down in zip(*losses, strict=True)]
            # Log-probabilities are float32 whatever the model is.
            assert sum(slopes) == pytest.approx(
                float(scores[coupling.name][unit]), rel=0.03, abs=0.05
            )


def test_output_importance_is_what_a_unit_adds():
    model = model_of(block_repeats=2)
    coupling = units_of(model).couplings["blocks.1.heads"]
    seen = []
    out = model.blocks[1].attention.o_proj
    hook = out.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    for batch in batches():
        model(batch["input_ids"])
    hook.remove()
    x = torch.cat(seen)
    [name] = coupling.columns
    moment = gather_moments(model, batches(), [name])[name].inputs
    given = output_importance(out.weight, moment, coupling.unit)
    for group in range(2):
        part = slice(12 * group, 12 * group + 12)
        expected = (x[:, part] @ out.weight[:, part].T).square().sum(-1).mean()
        assert float(given[group]) == pytest.approx(expected.item(), rel=1e-4)


def test_within_groups_every_group_keeps_its_best():
    model = model_of()
    with torch.no_grad():  # heads 1 and 5 say nothing
        for block in model.blocks:
            for head in (1, 5):
                block.attention.o_proj.weight[:, 4 * head : 4 * head + 4] = 0
    recipe = StructuredPruning(keep_heads=0.67, head_unit="within_groups")
    assert recipe.plan(model, batches()).heads == ((0, 2, 3, 4),) * 3


def test_patterns_choose_the_layers_that_are_cut():
    model = model_of()
    patterns = ["blocks.[02].feed_forward.*", "blocks.1.attention.*"]
    recipe = StructuredPruning(keep_channels=0.5, keep_heads=0.5, layers=patterns)
    plan = recipe.plan(model, batches())
    assert [len(kept) for kept in plan.channels] == [20, 40, 20]
    assert [len(kept) for kept in plan.heads] == [6, 3, 6]
    assert plan.config_after(model.config) in recipe.configs_after(model.config)
    compressed = recipe.apply(model, plan, batches())
    assert set(compressed.errors) == {
        "blocks.0.feed_forward.down_proj", "blocks.1.attention.o_proj",
        "blocks.2.feed_forward.down_proj",
    }  # fmt: skip


def test_within_groups_of_one_there_is_nothing_to_prune():
    recipe = StructuredPruning(keep_heads=0.6, head_unit="within_groups")
    with pytest.raises(ValueError, match="of 1 keeps all; remove keep_heads, or change head_unit"):
        recipe.check(model_of(num_key_value_heads=6))
