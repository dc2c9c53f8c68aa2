"""Recipes of quantization: which matrices, the functions they keep, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from mobilellm.compression import AWQ, GPTQ, QuantizationAwareTraining, RoundToNearest
from mobilellm.compression.calibration import gather_moments
from mobilellm.compression.input_scales import scaled_inputs, with_scaled_inputs
from mobilellm.compression.pruning import Pruning
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.evaluation.validation import sum_losses
from mobilellm.layers.number_format import NumberFormat
from mobilellm.models import MobileLLM, ModelConfig

SHAPE = {
    "vocab_size": 48, "hidden_size": 64, "intermediate_size": 96, "num_blocks": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
QUERY, DOWN = "blocks.0.attention.q_proj", "blocks.1.feed_forward.down_proj"
VARIANTS = {
    "grouped queries": {},
    "shared": {"block_repeats": 2, "layer_sharing": "reverse", "residual_multiplier": 0.5},
    "relu": {"feed_forward": "relu", "qk_norm": "rms", "share_kv": "first", "block_repeats": 2},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 8, "output_multiplier": 0.5},
}


def make_model(**changes):
    """A model with a few inputs that are much larger than the others, as trained ones have."""
    torch.manual_seed(0)
    model = MobileLLM(ModelConfig(**SHAPE | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand_like(parameter) + 0.3)
                parameter[::13] *= 8
            else:
                parameter.mul_(5)
    return model


def make_batches():
    ids = torch.randint(48, (12, 33), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": rows[:, :-1], "labels": rows[:, 1:]} for rows in ids.split(6)]


def logits(model):
    with torch.no_grad():
        return model(make_batches()[0]["input_ids"]).logits


def applied(recipe, model):
    return recipe.apply(model, recipe.plan(model, make_batches()), make_batches())


def output_error(model, small, name):
    """Relative error of the outputs of a matrix, for its inputs in `model`."""
    moment = gather_moments(model, make_batches(), [name])[name].inputs
    weights = [m.get_submodule(name) for m in (model, small)]
    weight, other = weights[0].weight.detach().double(), weights[1].materialize().double()
    error = weight - other
    return float(torch.trace(error @ moment @ error.T) / torch.trace(weight @ moment @ weight.T))


@pytest.mark.parametrize("variant", VARIANTS)
def test_scales_of_inputs_leave_the_function_unchanged(variant):
    model = make_model(**VARIANTS[variant])
    inputs = scaled_inputs(model.config)
    read = [name for one in inputs for name in one.readers]
    tied = {"embedding"}  # it has no input, or is read by the final norm as the tied head
    assert sorted(read) == sorted({*model.config.matrix_sizes} - tied)
    scales = {}
    for one in inputs:
        size = model.get_submodule(one.producer).weight.shape[0]
        scales[one] = torch.rand(size, dtype=torch.float64) * 3 + 0.1
    scaled = with_scaled_inputs(model, scales)
    torch.testing.assert_close(logits(scaled), logits(model), rtol=1e-3, atol=1e-3)
    changed = {
        name
        for (name, a), b in zip(model.named_parameters(), scaled.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    kept = {"embedding.weight", "norm.weight"} if variant != "untied" else {"embedding.weight"}
    kept |= {n for n, _ in model.named_parameters() if "q_norm" in n or "k_norm" in n}
    assert changed == {n for n, _ in model.named_parameters()} - kept


def test_awq_lowers_the_error_of_the_outputs():
    model = make_model()
    nearest = applied(RoundToNearest(embedding_bits=None), model)
    scaled = applied(AWQ(embedding_bits=None), model)
    assert set(scaled.errors) == set(nearest.errors)
    inputs = gather_moments(model, make_batches(), [QUERY, DOWN])
    for name in (QUERY, DOWN):
        assert scaled.errors[name] ** 2 < 0.9 * output_error(model, nearest.model, name), name
        assert inputs[name].tokens == 12 * 32
    # The errors add up to that of the model.
    distances = [(logits(m) - logits(model)).norm() for m in (nearest.model, scaled.model)]
    assert distances[1] < distances[0]


@pytest.mark.parametrize("fit", ["outputs", "propagated"])
def test_gptq_is_nearer_to_the_floats_than_the_nearest_values(fit):
    model, batches = make_model(), make_batches()
    small = applied(GPTQ(fit=fit), model).model
    nearest = applied(RoundToNearest(), model).model
    distances = [(logits(one) - logits(model)).norm() for one in (small, nearest)]
    assert distances[0] < 0.9 * distances[1]
    assert sum_losses(small, batches).loss != sum_losses(nearest, batches).loss


def test_each_matrix_has_the_format_of_its_place():
    int4, int8 = NumberFormat(bits=4, group=32), NumberFormat(bits=8)
    config = applied(RoundToNearest(), make_model(tie_word_embeddings=False)).model.config
    formats = {name: shape.quantized for name, shape in config.layer_shapes.items()}
    assert formats.pop("embedding") == formats.pop("head") == int8
    assert set(formats.values()) == {int4}
    assert len(formats) == 14
    same = applied(RoundToNearest(embedding_bits=4), make_model()).model.config
    assert {shape.quantized for shape in same.layer_shapes.values()} == {int4}
    some = RoundToNearest(layers=["blocks.0.*"], embedding_bits=None)
    half = applied(some, make_model()).model
    assert len(half.config.layer_shapes) == 7
    # The rest may have another format.
    rest = applied(RoundToNearest(layers=[], embedding_bits=8), half).model
    assert len(rest.config.layer_shapes) == 8
    assert applied(replace(some, layers=["blocks.1.*"], bits=8), rest).model.head is None


def test_trained_weights_are_packed_at_the_end():
    model, recipe = make_model(), QuantizationAwareTraining()
    trained = applied(recipe, model).model
    assert all(
        torch.equal(trained.get_parameter(name), parameter)
        for name, parameter in model.named_parameters()
    )
    finished = recipe.finish(trained)
    torch.testing.assert_close(logits(finished), logits(trained))
    # Without training, they are the nearest values.
    nearest = applied(RoundToNearest(activation_bits=8), model).model
    assert nearest.config == finished.config
    assert all(torch.equal(nearest.state_dict()[k], t) for k, t in finished.state_dict().items())


RECIPES = [RoundToNearest(), GPTQ(), AWQ(), QuantizationAwareTraining()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: type(one).__name__)
def test_groups_that_do_not_divide_are_refused_before_data_is_read(recipe):
    with torch.device("meta"):
        model = MobileLLM(ModelConfig(**SHAPE | {"intermediate_size": 576}))
    message = (
        r"group=128 does not divide the 64 inputs of blocks\.0\.attention\.q_proj and those of 13 "
        "more; use group=8, 16, 32, 64 or null, which suit all selected matrices"
    )
    with pytest.raises(ValueError, match=message):
        replace(recipe, group=128).check(model)
    with pytest.raises(ValueError, match=r"down_proj and those of 1 more; use group=8, 16, 32, 64"):
        replace(recipe, group=128, layers=["blocks.*.down_proj"]).check(model)


@pytest.mark.parametrize(
    "recipe",
    [*RECIPES, Pruning(), StructuredPruning(keep_channels=0.5)],
    ids=lambda one: type(one).__name__,
)
def test_a_quantized_model_is_refused(recipe):
    small = applied(RoundToNearest(), make_model()).model
    with pytest.raises(ValueError, match="compressed already") as caught:
        recipe.check(small)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (RoundToNearest(layers=["*"]), {}, "selects embedding, whose number format is set by emb"),
        (RoundToNearest(layers=[], embedding_bits=None), {}, "layers is empty"),
        (RoundToNearest(), {"intermediate_size": 40}, "40 inputs of .*use group=8 or null"),
        (AWQ(layers=["blocks.0.*.down_proj"], embedding_bits=None), {"compressed_layers":
         {"blocks.0.feed_forward.up_proj": {"nonzero": 9}}}, "input of .*down_proj also change"),
    ],
)  # fmt: skip
def test_selections_that_cannot_be_quantized_are_refused(recipe, changes, message):
    with torch.device("meta"):
        model = MobileLLM(ModelConfig(**SHAPE | changes))
    with pytest.raises(ValueError, match=message):
        recipe.check(model)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"bits": 5}, "bits=5 is not supported; use 4 or 8"),
        ({"embedding_bits": 6}, "embedding_bits=6 is not supported; use 4, 8, or null"),
        ({"bits": 8, "embedding_bits": 4}, "embedding_bits=4 takes group and levels from bits=4"),
        ({"levels": "normal", "symmetric": False}, r"levels=normal \(NF4\) contradicts"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        RoundToNearest(**choices)


def test_plans_of_other_recipes_and_broken_weights_are_refused():
    model = make_model()
    plan = RoundToNearest().plan(model, [])
    with pytest.raises(ValueError, match="in groups of 32, but the recipe has int4 in groups of 8"):
        RoundToNearest(group=8).apply(model, plan, [])
    with torch.no_grad():
        model.get_parameter(f"{QUERY}.weight")[0, 0] = float("nan")
    for recipe in (RoundToNearest(), QuantizationAwareTraining()):
        with pytest.raises(ValueError, match=r"q_proj has weights that are not finite"):
            recipe.plan(model, [])
    few = [{key: value[:1] for key, value in make_batches()[0].items()}]
    for recipe in (GPTQ(), AWQ()):
        with pytest.raises(ValueError, match="32 calibration tokens are too few"):
            recipe.apply(make_model(), plan, few)
