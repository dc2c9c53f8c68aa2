"""Budgets of compression are met or refused, and what is left of them could buy nothing more."""

import itertools
import random
from dataclasses import replace

import pytest
import torch

from mobilellm.compression.algorithms.shape_search import ShapeSearch
from mobilellm.compression.factorization import Factorization
from mobilellm.compression.selection import select_layers
from mobilellm.layers.factorized import FactorizedLinear
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.cache import KVCache
from mobilellm.models.norm import RMSNorm

FEED_FORWARD = ["blocks.*.feed_forward.*"]
PATTERNS = (["blocks.*"], FEED_FORWARD, ["embedding", "blocks.*"], ["head", "blocks.[02].*"])
RECIPES = {
    "low rank": {},
    "products": {"parts": [{"right": [4, 2]}]},
    "flat products": {"parts": [{"right": [2, 1]}]},
    "both": {"parts": [{"num_terms": None}, {"right": [4, 2], "num_terms": 1}]},
    "permuted": {"parts": [{"right": [4, 2]}], "permutations": "all"},
    "pivoted and permuted": {
        "parts": [{"num_terms": None}, {"right": [4, 2], "num_terms": 1}], "pivoted": True,
        "permutations": "stored"},
    "found": {"parts": None, "shape_search": {"finalists": 1, "right_sizes": (1, 2)}},
    "found and permuted": {
        "parts": None, "permutations": "stored", "shape_search": {"finalists": 1, "terms": (1,)}},
}  # fmt: skip
SHARES = (0.3, 0.5, 0.8)


def make_config(tied, sharing):
    return ModelConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_blocks=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied,
        block_repeats=2, **sharing,
    )  # fmt: skip


SHARING = ({"layer_sharing": "reverse"}, {"share_kv": "first"})


def recipe_of(name, **changes):
    choices = dict(RECIPES[name])
    if "shape_search" in choices:
        choices["shape_search"] = ShapeSearch(**choices["shape_search"])
    return Factorization(fit="weights", **(choices | changes))


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def indices(module):
    return sum(b.numel() for name, b in module.named_buffers() if name.endswith("_order"))


def numbers_read_for_a_token(model):
    """By watching one step of decoding: what each layer that runs has, and one row of a table."""
    read = {"numbers": 0, "norms": 0, "indices": 0}

    def count(module, *_):
        read["norms" if isinstance(module, RMSNorm) else "numbers"] += numbers(module)
        read["indices"] += indices(module)

    kinds = (torch.nn.Linear, RMSNorm, FactorizedLinear, KroneckerLinear)
    watched = [m for n, m in model.named_modules() if isinstance(m, kinds) and ".parts." not in n]
    cache = KVCache(model.config, capacity=4)
    model(torch.tensor([[1, 2]]), cache)
    hooks = [m.register_forward_hook(count) for m in watched if m is not model.embedding]
    model(torch.tensor([[3]]), cache)
    for hook in hooks:
        hook.remove()
    if model.head is None:
        count(model.embedding)
    else:
        read["numbers"] += model.config.hidden_size
    return read


def cost(model, names, budget, share):
    """The cost of a model in the unit of its budget, and the limit, counted from the model."""
    (limit,) = (name for name in budget if name != "bits")
    if limit == "ratio":
        return sum(numbers(model.get_submodule(name)) for name in names)
    if limit == "stored_ratio":
        return numbers(model)
    if limit == "max_bytes":
        norms = sum(numbers(m) for m in model.modules() if isinstance(m, RMSNorm))
        return (numbers(model) - norms) * budget["bits"] / 8 + 2 * norms + 4 * indices(model)
    read = numbers_read_for_a_token(model)
    return read["numbers"] * budget["bits"] / 8 + 2 * read["norms"] + 4 * read["indices"]


LIMITS = ("ratio", "stored_ratio", "max_bytes", "max_decode_bytes")


def cases(name):
    """A sample of all combinations, another one for each recipe."""
    every = [
        case
        for case in itertools.product((True, False), SHARING, PATTERNS, LIMITS, SHARES)
        if not (case[0] and "head" in case[2])
    ]
    return random.Random(name).sample(every, 5 if "found" in name else 16)


def could_grow(plan, sizes, uses, left):
    """A matrix of which one more term of some part would have fitted."""
    for layer in plan.layers:
        part = next((p for p in layer.shape.parts if p.is_low_rank), layer.shape.parts[0])
        rows, columns = sizes[layer.name]
        if part.num_terms == part.max_terms:
            continue
        step = replace(part, num_terms=part.num_terms + 1).parameters - part.parameters
        if layer.parameters + step < rows * columns and step * uses[layer.name] <= left:
            return layer.name
    return None


def reads(config, name, limit):
    """How often a limit counts a matrix."""
    if limit != "max_decode_bytes" or not name.startswith("blocks"):
        return 1
    if config.share_kv == "first" and name.endswith(("k_proj", "v_proj")):
        return 1
    return config.layer_order.count(int(name.split(".")[1]))


@pytest.mark.parametrize("name", RECIPES)
def test_a_budget_is_met_and_spent_or_refused(name):
    met = 0
    for tied, sharing, patterns, limit, share in cases(name):
        config = make_config(tied, sharing)
        torch.manual_seed(0)
        model = MobileLLM(config)
        bits = 8 if share == 0.5 else 16
        budget = {limit: share} if "ratio" in limit else {limit: 1.0, "bits": bits}
        every = [n for n in config.matrix_sizes if n != "embedding" or limit != "max_decode_bytes"]
        whole = cost(model, every, budget, share)
        if "ratio" not in limit:
            budget[limit] = share * whole
        recipe = recipe_of(name, layers=patterns, budget=budget)
        case = (name, tied, sharing, patterns, budget)
        try:
            recipe.check(model)
        except ValueError as error:
            known = (
                "leaves",
                "not compressed",
                "too few for a weight",
                "remove embedding",
                "does not",
            )
            assert any(word in str(error) for word in known), (case, error)
            continue
        plan = recipe.plan(model, [])
        small = MobileLLM(replace(config, compressed_layers=plan.compressed_layers))
        names = select_layers(config, patterns)
        limits = {"ratio": share * cost(model, names, budget, share),
                  "stored_ratio": share * numbers(model)}  # fmt: skip
        allowed = limits.get(limit, budget[limit])
        used = cost(small, names, budget, share)
        assert used <= allowed + 1e-6, case
        unit = 1 if "ratio" in limit else bits / 8
        uses = {n: unit * reads(config, n, limit) for n in names}
        assert could_grow(plan, config.matrix_sizes, uses, allowed - used - 1e-3) is None, case
        budget_use = recipe.budget_use(model, plan)
        assert budget_use.used <= budget_use.allowed + 1e-3
        met += 1
    assert met >= 3


def test_fixed_parts_are_held_against_a_budget():
    config = make_config(True, {})
    parts = [{"right": [1, 2], "num_terms": 1, "transpose_for_wide": False}]
    with torch.device("meta"):
        model = MobileLLM(config)
    for ratio in (0.1, 0.5):
        with pytest.raises(ValueError, match=r"configured parts have .* \(50\.\d+%\)"):
            Factorization(layers=FEED_FORWARD, parts=parts, budget={"ratio": ratio}).check(model)
    Factorization(layers=FEED_FORWARD, parts=parts, budget={"ratio": 0.51}).check(model)
    free = {"ratio": None, "stored_ratio": None, "max_bytes": None, "max_decode_bytes": None}
    recipe = Factorization(layers=FEED_FORWARD, parts=parts, budget=free | {"bits": 16})
    recipe.check(model)
    assert recipe.budget is None
    with pytest.raises(ValueError, match="0 limits"):
        Factorization(layers=FEED_FORWARD, budget=free)


def test_what_one_term_of_each_matrix_leaves_goes_to_some_of_them():
    """Four terms of (4 x 2) are half of a matrix and a little; three were kept of every one."""
    model = MobileLLM(make_config(True, {}))
    recipe = Factorization(
        layers=FEED_FORWARD, parts=[{"right": [4, 2]}], budget={"ratio": 0.5}, fit="weights"
    )
    plan = recipe.plan(model, [])
    kept = [layer.parameters / 384 for layer in plan.layers]
    assert sum(kept) / len(kept) > 0.47
    assert max(kept) > 0.5 > min(kept)
    assert "the plan uses" in str(recipe.budget_use(model, plan))


def test_a_dense_untied_table_cannot_be_read_less():
    with torch.device("meta"):
        model = MobileLLM(make_config(False, {}))
    for patterns in (["*"], ["embedding", "blocks.*"]):
        recipe = Factorization(layers=patterns, budget={"max_decode_bytes": 5_000})
        with pytest.raises(ValueError, match=r"only one row .*; remove embedding from layers"):
            recipe.check(model)


@pytest.mark.parametrize(("budget", "message"), [
    ({"max_bytes": -1.0}, "max_bytes=-1.0 must be above 0"),
    ({"max_decode_bytes": float("inf")}, "max_decode_bytes=inf must be a finite number above 0"),
    ({"max_bytes": float("nan")}, "max_bytes=nan must be a finite number above 0"),
    ({"ratio": float("nan")}, "ratio=nan must be a finite number above 0 and below 1"),
    ({"ratio": "half"}, "ratio='half' must be a number"),
    ({"ratio": 0.5, "bits": 0}, "bits=0 must be a whole number"),
])  # fmt: skip
def test_numbers_of_a_budget_have_a_range(budget, message):
    with pytest.raises(ValueError, match=message):
        Factorization(budget=budget)
