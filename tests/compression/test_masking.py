"""Pruning single weights of whole models."""

import pytest
import torch

from mobilellm.checkpoint import load_model, save_model
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.pruning import sparsegpt
from mobilellm.compression.apply import dense_weight, with_layers
from mobilellm.compression.calibration import gather_moments
from mobilellm.compression.plan import LayerwisePlan
from mobilellm.compression.pruning import METHODS, Pruning
from mobilellm.models import MobileLLM, ModelConfig

SCHEMES = ("immediate", "repeat_all", "reverse")


def make_model(**changes):
    sizes = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_blocks=2, head_dim=4,
                 num_attention_heads=6, num_key_value_heads=2)  # fmt: skip
    torch.manual_seed(0)
    model = MobileLLM(ModelConfig(**(sizes | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    return model


def batches(count=3):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 61, (count, 4, 21), generator=generator)
    return [{"input_ids": x[:, :-1], "labels": x[:, 1:]} for x in ids]


def compress(recipe, model):
    calibration = batches()
    return recipe.apply(model, recipe.plan(model, calibration), calibration)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_the_plan_is_what_comes_out(scheme, method, pattern, tmp_path):
    model = make_model(layer_sharing=scheme, block_repeats=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Pruning(layers=["blocks.*"], method=method, pattern=pattern)
    plan = recipe.plan(model, batches())
    assert LayerwisePlan.from_dict(plan.to_dict()) == plan
    result = recipe.apply(model, plan, batches())
    assert dict(result.model.config.compressed_layers) == plan.compressed_layers
    for layer in plan.layers:
        weight = dense_weight(result.model, layer.name)
        assert int((weight != 0).sum()) == layer.shape.nonzero == weight.numel() // 2
        if pattern == "2:4":
            assert ((weight.view(len(weight), -1, 4) != 0).sum(-1) == 2).all()
    assert set(result.errors) == set(plan.names)
    assert all(0 < error < 1 for error in result.errors.values())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    save_model(result.model, tmp_path)
    ids = batches()[0]["input_ids"]
    assert torch.equal(load_model(tmp_path)(ids).logits, result.model(ids).logits)
    again = recipe.apply(model, plan, batches()).model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in result.model.state_dict().items())


def test_masks_outlive_training():
    model = compress(Pruning(layers=["*"], method="magnitude"), make_model()).model
    zeros = {n: dense_weight(model, n) == 0 for n, _ in model.config.compressed_layers}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = dense_weight(model, "embedding").clone()
    model(batches()[0]["input_ids"]).logits.square().mean().backward()
    optimizer.step()
    assert len(zeros) == 15
    assert all((dense_weight(model, name)[zero] == 0).all() for name, zero in zeros.items())
    assert not torch.equal(dense_weight(model, "embedding"), before)


def test_sparsegpt_goes_block_by_block_through_what_is_pruned():
    model, calibration = make_model(layer_sharing="repeat_all", block_repeats=2), batches()
    result = compress(Pruning(method="sparsegpt", sparsity=0.6), model)
    first = [n for n in model.config.matrix_sizes if n.startswith("blocks.0.")]
    half = with_layers(model, {n: result.model.get_submodule(n) for n in first})
    for stage_model, name in ((model, "blocks.0.feed_forward.down_proj"),
                              (half, "blocks.1.feed_forward.down_proj")):  # fmt: skip
        moment = gather_moments(stage_model, calibration, [name])[name].inputs
        weight = dense_weight(model, name)
        new, _ = sparsegpt(weight, moment, 0.6)
        assert torch.equal(new, dense_weight(result.model, name))
        assert result.errors[name] == pytest.approx(Metric(moment).relative_error(weight, new))


def test_on_the_outputs_sparsegpt_is_not_above_magnitude():
    model, calibration = make_model(block_repeats=2), batches()
    names = [n for n in model.config.matrix_sizes if n != "embedding"]
    moments = gather_moments(model, calibration, names)
    plan = Pruning(method="sparsegpt").plan(model, calibration)
    magnitude = compress(Pruning(method="magnitude"), model).model
    for layer in plan.layers:
        weight = dense_weight(model, layer.name)
        error = Metric(moments[layer.name].inputs).relative_error(
            weight, dense_weight(magnitude, layer.name)
        )
        assert layer.expected_error < error


def test_a_tied_table_has_one_mask_for_both_ends():
    model = make_model()
    masked = compress(Pruning(layers=["embedding"], method="magnitude", sparsity=0.3), model).model
    table = dense_weight(masked, "embedding")
    assert int((table == 0).sum()) == round(0.3 * 61 * 24)
    with torch.no_grad():
        model.embedding.weight.copy_(table)
    ids = batches()[0]["input_ids"]
    assert torch.allclose(masked(ids).logits, model(ids).logits, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_untied_head_is_a_matrix_like_others(method):
    model = make_model(tie_word_embeddings=False)
    result = compress(Pruning(layers=["head"], method=method), model)
    assert int((dense_weight(result.model, "head") != 0).sum()) == 61 * 12
    assert torch.equal(result.model.embedding.weight, model.embedding.weight)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_the_table_has_no_inputs_to_go_by(method):
    with pytest.raises(ValueError, match=f"method={method}.*use method=magnitude for embedding"):
        Pruning(layers=["*"], method=method).check(make_model())


def test_what_cannot_be_applied_is_refused():
    with pytest.raises(ValueError, match="method='wunda' is not known; use one of wanda"):
        Pruning(method="wunda")
    with pytest.raises(ValueError, match=r"sparsity=0.7 contradicts pattern=2:4"):
        Pruning(sparsity=0.7, pattern="2:4")
    with pytest.raises(ValueError, match=r"layers='block.*' matches no matrix"):
        Pruning(layers=["block.*"]).check(make_model())
    with pytest.raises(ValueError, match=r"blocks.0.feed_forward.down_proj: pattern=2:4.*has 42"):
        Pruning(pattern="2:4").check(make_model(intermediate_size=42))
    model, recipe = make_model(), Pruning(method="magnitude")
    plan = recipe.plan(model, [])
    masked = recipe.apply(model, plan, []).model
    with pytest.raises(
        ValueError, match=r"only matrices that are compressed already.*compress the dense model"
    ):
        recipe.check(masked)
    with pytest.raises(ValueError, match="compressed already; prune the dense model"):
        recipe.apply(masked, plan, [])
    with pytest.raises(ValueError, match=r"sparsity=0.25 gives.*the recipe that created it"):
        Pruning(method="magnitude", sparsity=0.25).apply(model, plan, [])
    with pytest.raises(ValueError, match="calibration tokens are too few"):
        Pruning(method="sparsegpt").plan(model, [{k: v[:1] for k, v in batches()[0].items()}])
