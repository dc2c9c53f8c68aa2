"""What holds for every compression recipe: a new file in conf/compression needs no row here.

The first recipe of each class meets every sharing scheme in `make test`, the others meet two; all
other pairs are slow tests. Recipes that take seconds meet every other scheme, in slow tests.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from mobilellm.accounting import count_parameters, decode_bytes_per_token, packed_parameters
from mobilellm.checkpoint import load_model, save_model, stored_bytes
from mobilellm.compression.factorization import Factorization
from mobilellm.compression.plan import LayerwisePlan
from mobilellm.compression.pruning import Pruning
from mobilellm.compression.quantization_recipe import QuantizationRecipe
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.evaluation.validation import sum_losses
from mobilellm.hydra_app.configuration import compose
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate
from mobilellm.pipeline.recipe import make_recipe

FILES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[2] / "conf/compression").glob("*.yaml"))
}
PRESETS = [name for name, node in FILES.items() if node]
SCHEMES = {
    "none": {},
    "immediate": {"block_repeats": 2},
    "repeat_all": {"block_repeats": 2, "layer_sharing": "repeat_all"},
    "reverse": {"block_repeats": 2, "layer_sharing": "reverse"},
    "first_kv": {"block_repeats": 2, "share_kv": "first"},
    "last_first": {"block_repeats": 2, "layer_sharing": "last_first"},  # 2 1 0 0 2
    "untied": {"tie_word_embeddings": False},
}
FEED_FORWARD = ["blocks.*.feed_forward.*"]
# Files whose recipe takes seconds even for this model.
TAKES_SECONDS = ("searched", "permuted_kronecker")
# Variants that take seconds: `make test` tests them with one number type and one sharing scheme.
SLOW_VARIANTS = ("mixed", "embedding too", "absorbed", "pivoted sums")
# Fitted one block at a time, which blocks that share keys and values do not allow.
RECONSTRUCTED = ("pivoted sums",)
# Files of quantization, and the sharing schemes under which `make test` tests each.
QUANTIZED = {
    "quantize": ["untied"], "gptq": ["untied"], "awq": ["last_first"], "qat": ["reverse"],
}  # fmt: skip
# Settings that no file has, and the sharing schemes under which `make test` tests each.
VARIANTS = {
    "svd": (Factorization(fit="weights"), ["none", "reverse"]),
    "kronecker, weights": (
        Factorization(
            layers=FEED_FORWARD, fit="weights",
            parts=[{"right": [1, 2], "num_terms": 1, "transpose_for_wide": False}],
        ),
        ["repeat_all"],
    ),
    "absorbed": (
        Factorization(
            parts=[{"right": [2, 4]}], permutations="absorbed", fit="weights", budget={"ratio": 0.6}
        ),
        ["last_first"],
    ),
    "mixed": (
        Factorization(
            parts=[{"num_terms": None}, {"right": [4, 2], "num_terms": 1}], budget={"ratio": 0.7}
        ),
        ["first_kv"],
    ),
    "embedding too": (
        Factorization(
            layers=["embedding", "blocks.*"], fit="propagated", budget={"stored_ratio": 0.7}
        ),
        ["untied"],
    ),
    "pivoted sums": (
        Factorization(
            parts=[{"num_terms": None}, {"right": [4, 2], "num_terms": 1}], pivoted=True,
            layers=["embedding", "blocks.*"], budget={"ratio": 0.7}, fit="reconstructed",
            reconstruction={"steps": 2}, self_distillation={"steps": 2},
        ),
        [],
    ),
    "decode bytes": (
        Factorization(budget={"max_decode_bytes": 1, "bits": 8}), ["first_kv", "repeat_all"]
    ),
    "masked embedding": (
        Pruning(layers=["embedding", "blocks.*"], method="magnitude"), ["untied", "immediate"]
    ),
    "2:4": (Pruning(method="wanda", pattern="2:4"), ["none", "last_first"]),
    "heads and blocks": (
        StructuredPruning(keep_channels=0.5, keep_heads=0.5, keep_blocks=0.67), [*SCHEMES]
    ),
}  # fmt: skip


def cases():
    """Each recipe with each scheme; pairs that `make test` leaves out are marked slow."""
    known, schemes = set(), [*SCHEMES]
    for number, name in enumerate([*PRESETS, *VARIANTS]):
        if name in VARIANTS or name in QUANTIZED:
            quick = QUANTIZED[name] if name in QUANTIZED else VARIANTS[name][1]
        else:
            target = FILES[name].get("_target_")  # files without one are variants of one with it
            is_new = target is not None and target not in known
            known.add(target)
            steps = () if name in TAKES_SECONDS else (0, 1)
            some = [schemes[(2 * number + step) % len(schemes)] for step in steps]
            quick = schemes if is_new else some
        for scheme in schemes[number % 2 :: 2] if name in TAKES_SECONDS else schemes:
            if name in RECONSTRUCTED and "share_kv" in SCHEMES[scheme]:
                continue
            yield pytest.param(name, scheme, marks=[] if scheme in quick else pytest.mark.slow)


pytestmark = pytest.mark.usefixtures("uneven_schemes")


def make_model(scheme):
    torch.manual_seed(0)
    return MobileLLM(ModelConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_blocks=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, **SCHEMES[scheme],
    ))  # fmt: skip


def recipe_for(name, config):
    if name in PRESETS:
        # The widths of this model are too small for the groups of the files.
        groups = ["compression.group=8"] if name in QUANTIZED else []
        node = compose("compress", [f"compression={name}", *groups]).compression
        return make_recipe(OmegaConf.to_container(node, resolve=True))[0]
    recipe = VARIANTS[name][0]
    if name == "heads and blocks" and config.layer_sharing == "last_first":
        return replace(recipe, keep_blocks=None)  # the order would change
    if name != "decode bytes":
        return recipe
    limit = 0.7 * decode_bytes_per_token(config, bits=8)
    return replace(recipe, budget={"max_decode_bytes": limit, "bits": 8})


def make_batches():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(48, (12, 33), generator=generator)
    return [{"input_ids": rows[:, :-1], "labels": rows[:, 1:]} for rows in ids.split(6)]


def prompt():
    return torch.tensor([[1, 5, 7]])


@pytest.mark.parametrize(("name", "scheme"), cases())
def test_every_recipe_keeps_the_contract(name, scheme, tmp_path):
    model, batches = make_model(scheme), make_batches()
    recipe = recipe_for(name, model.config)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    recipe.check(model)
    plan = recipe.plan(model, batches)
    assert type(plan).from_dict(plan.to_dict()) == plan
    done = recipe.apply(model, plan, batches)
    small = done.model
    # The model given is left alone, and doing it again gives the same bits.
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    again = recipe.apply(model, plan, batches).model.state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in small.state_dict().items())
    # Counts follow from the configuration alone.
    counts = count_parameters(small.config)
    packed = packed_parameters(small.config)
    assert counts.stored == packed + sum(p.numel() for p in small.parameters())
    if isinstance(recipe, QuantizationRecipe):
        assert counts.stored == count_parameters(model.config).stored
        finished = recipe.finish(small).eval()
        torch.testing.assert_close(finished(prompt()).logits, small.eval()(prompt()).logits)
        assert stored_bytes(finished) < stored_bytes(model) / 2
    elif isinstance(recipe, Pruning):
        assert counts.nonzero < counts.stored
    else:
        assert counts.stored < count_parameters(model.config).stored
    # A tied table serves both ends with one set of parameters; untied ones stay two.
    assert (small.head is None) == model.config.tie_word_embeddings
    assert small.config.layer_order == ModelConfig.from_dict(small.config.to_dict()).layer_order
    # Saved, loaded, generated from.
    save_model(small, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == small.config
    assert torch.equal(loaded(prompt()).logits, small.eval()(prompt()).logits)
    assert generate(loaded, prompt(), max_new_tokens=4).shape == (1, 7)
    # It learns: every parameter gets a gradient.
    small(batches[0]["input_ids"]).logits.square().mean().backward()
    missing = [n for n, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def number_types():
    """Each recipe in one of the 16-bit types, and in float64 unless that takes long."""
    for number, name in enumerate([*PRESETS, *VARIANTS]):
        marks = [pytest.mark.slow] if name in TAKES_SECONDS else []
        yield pytest.param(name, (torch.bfloat16, torch.float16)[number % 2], marks=marks)
        if name != "searched":
            slow = marks or [pytest.mark.slow] * (name in SLOW_VARIANTS)
            yield pytest.param(name, torch.float64, marks=slow)


@pytest.mark.parametrize(("name", "dtype"), number_types())
def test_every_number_type_stays_what_it_is(name, dtype):
    model, batches = make_model("none").to(dtype), make_batches()
    recipe = recipe_for(name, model.config)
    small = recipe.apply(model, recipe.plan(model, batches), batches).model
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert small(batches[0]["input_ids"]).logits.dtype == dtype
    # In float64 it is what float32 gives, to rounding: nothing passes through a smaller type.
    if dtype == torch.float64:
        single = make_model("none")
        plan = recipe.plan(model, batches)
        close = recipe.apply(single, plan, batches).model(batches[0]["input_ids"]).logits
        # A token that is rounded turns small differences into steps.
        near = 2e-2 if name == "qat" else 2e-3
        torch.testing.assert_close(
            small(batches[0]["input_ids"]).logits.float(), close, atol=near, rtol=near
        )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_absorbed_permutations_leave_the_function_unchanged(scheme, seed):
    from mobilellm.compression.algorithms.permutation import PermutationSearch
    from mobilellm.compression.permutations import absorb_permutations

    model = make_model(scheme).eval()
    plan = VARIANTS["absorbed"][0].plan(model, make_batches())
    permuted = absorb_permutations(model, plan, PermutationSearch(seed=seed))
    moved = any(
        not torch.equal(a, b)
        for a, b in zip(model.parameters(), permuted.parameters(), strict=True)
    )
    assert moved
    ids = make_batches()[0]["input_ids"]
    assert torch.allclose(model(ids).logits, permuted(ids).logits, atol=1e-5)


def test_a_searched_allocation_is_not_worse_than_the_uniform_one_on_the_calibration_text():
    model, batches = make_model("none"), make_batches()
    losses = {}
    for allocation in ("uniform", "searched"):
        recipe = Factorization(layers=FEED_FORWARD, allocation=allocation)
        plan = recipe.plan(model, batches)
        losses[allocation] = sum_losses(recipe.apply(model, plan, batches).model, batches).loss
    assert losses["searched"] <= losses["uniform"] + 1e-9


def test_a_plan_names_a_layer_once():
    plan = VARIANTS["svd"][0].plan(make_model("none"), make_batches())
    with pytest.raises(ValueError, match=r"contains .* twice"):
        LayerwisePlan(layers=(*plan.layers, plan.layers[0]))


BAD = {
    "a pattern that matches nothing": (dict(layers=["blocks.*.mlp.*"]), "matches no matrix"),
    "a tied head": (dict(layers=["head"]), "tied to the embedding"),
    "factors that do not divide": (
        dict(layers=FEED_FORWARD, parts=[{"right": [5, 1], "num_terms": 1}]), "does not divide"),
    "a plan larger than the weight": (
        dict(layers=FEED_FORWARD, parts=[{"right": [2, 2], "num_terms": 4}]),
        "more than the dense weight"),
    "a budget too small for one term": (dict(budget={"ratio": 0.01}), "leaves"),
    "a budget that saves nothing": (
        dict(budget={"max_bytes": 1e9}), "lower the budget below the model's size"),
    "a budget that the rest exceeds": (dict(budget={"stored_ratio": 0.05}), "compress more"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_the_model_is_refused_before_data_is_read(case):
    choices, message = BAD[case]
    with torch.device("meta"):
        model = MobileLLM(make_model("none").config)
    with pytest.raises(ValueError, match=message):
        Factorization(**choices).check(model)


@pytest.mark.parametrize(("choices", "message"), [
    (dict(budget={"ratio": 0.5, "stored_ratio": 0.5}), "exactly one of"),
    (dict(budget={"ratio": 1.5}), "above 0 and below 1"),
    (dict(fit="inputs"), "fit='inputs' is not known; use one of"),
    (dict(permutations="all"), "has no effect on low rank"),
    (dict(parts=[{"right": [1, 2]}, {"num_terms": None}]), "several parts have num_terms=null"),
    (dict(parts=[{"left": [1, 2]}]), "a part has right"),
])  # fmt: skip
def test_choices_that_contradict_each_other_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Factorization(**choices)


def test_too_few_calibration_tokens_are_refused():
    few = [{"input_ids": torch.ones(1, 9, dtype=torch.long), "labels": torch.ones(1, 9).long()}]
    with pytest.raises(ValueError, match="9 calibration tokens are too few"):
        Factorization().plan(make_model("none"), few)
