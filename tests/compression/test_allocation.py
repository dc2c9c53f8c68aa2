"""The search over the matrices' shares of a budget."""

import pytest
import torch

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.allocation import division_groups, proposals, searched_budgets
from mobilellm.compression.apply import dense_weight, with_layers
from mobilellm.compression.error_curve import ErrorCurve
from mobilellm.compression.factorization import Factorization
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM, ModelConfig

PARTS = {
    "low rank": (),
    "products": ({"right": [4, 2]},),
    "low rank beside products": ({"num_terms": None}, {"right": [4, 2], "num_terms": 1}),
    "products beside low rank": ({"num_terms": 2}, {"right": [2, 4]}),
}


def make_model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=48, hidden_size=16, intermediate_size=32, num_blocks=2,
                         num_attention_heads=4, max_position_embeddings=64)  # fmt: skip
    return MobileLLM(config)


def batches():
    ids = torch.randint(48, (12, 33), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": rows[:, :-1], "labels": rows[:, 1:]} for rows in ids.split(6)]


def curves_of(parts, ratio=0.5):
    model = make_model()
    recipe = Factorization(parts=parts, budget={"ratio": ratio}, fit="weights")
    division = recipe._division(model)
    return division, {
        name: ErrorCurve(name, dense_weight(model, name), Metric(), division)
        for name in division.names
    }


@pytest.mark.parametrize("parts", PARTS)
def test_proposed_divisions_keep_the_budget_and_some_are_moderate(parts):
    division, curves = curves_of(PARTS[parts])
    uniform = division.uniform()
    # Increases as they come: some matrices are worth a thousand times what others are.
    increases = {name: 10.0 ** (3 * (i % 5) / 4) for i, name in enumerate(curves)}
    found = list(proposals(curves, (increases,), uniform, division))
    assert uniform not in found
    assert len(found) == len({tuple(budgets.items()) for budgets in found})
    moderate = 0
    for budgets in found:
        assert sum(budgets.values()) <= division.allowed
        # Each can be built: what is not left dense has room for its parts.
        shapes = {n: division.shape_for(n, kept) for n, kept in budgets.items()
                  if kept < division.sizes[n]}  # fmt: skip
        division.check(shapes)
        relative = [kept / uniform[name] for name, kept in budgets.items()]
        assert max(relative) > 1 > min(relative)
        moderate += all(0.5 <= share < 1.9 for share in relative)
        # The estimate holds only near the uniform division. The latter is rounded to terms.
        assert max(relative) < 2.01
    assert moderate >= 2


@pytest.mark.parametrize("parts", ["low rank", "products"])
def test_a_curve_is_the_error_of_what_would_be_built(parts):
    _, curves = curves_of(PARTS[parts])
    for curve in curves.values():
        shapes = curve.choices(curve.size // 3)
        assert len(shapes) > 2
        for shape in shapes:
            fit = SumFit(curve.weight, shape)
            error = (
                (curve.weight.double() - fit.layer(torch.float64).materialize().detach())
                .square()
                .sum()
            )
            assert curve.squared_error(shape) == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize("parts", PARTS)
def test_a_searched_division_of_written_parts_is_built(parts):
    recipe = Factorization(
        layers=["blocks.1.feed_forward.*"], parts=PARTS[parts], allocation="searched",
        budget={"ratio": 0.5},
    )  # fmt: skip
    model = make_model()
    plan = recipe.plan(model, batches())
    budget_use = recipe.budget_use(model, plan)
    assert 0.9 * budget_use.allowed < budget_use.used <= budget_use.allowed
    small = recipe.apply(model, plan, batches()).model
    assert small(batches()[0]["input_ids"]).logits.isfinite().all()


def low_rank_model():
    """A model whose first feed-forward matrix has rank 2, and whose others have full rank."""
    model = make_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(6 if name.endswith("_proj.weight") else 1)
        weight = model.get_parameter("blocks.0.feed_forward.up_proj.weight")
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        weight.copy_((u[:, :2] * s[:2]) @ v[:2])
    return model


@pytest.mark.parametrize("fit", ["outputs", "propagated"])
def test_the_search_finds_the_best_of_all_divisions(fit):
    """Two matrices, of which one needs no more than rank 2."""
    model, text = low_rank_model(), batches()
    names = ["blocks.0.attention.o_proj", "blocks.0.feed_forward.up_proj"]
    recipe = Factorization(layers=names, budget={"ratio": 0.5}, fit=fit)
    division = recipe._division(model)
    found = searched_budgets(model, text, division, recipe._layer_fit)

    def loss(budgets):
        shapes = {name: division.shape_for(name, kept) for name, kept in budgets.items()}
        layers, _ = recipe._layer_fit.layers(model, shapes, text, quietly=True)
        return sum_losses(with_layers(model, layers), text).loss

    uniform = division.uniform()
    pairs = ((first, int(division.allowed) - first) for first in range(64, 255, 32))
    every = [dict(zip(names, pair, strict=True)) for pair in pairs]
    bounded = [
        budgets for budgets in every
        if all(0.5 <= kept / uniform[name] <= 2 for name, kept in budgets.items())
    ]  # fmt: skip
    assert len(bounded) > 3
    assert loss(found) <= min(map(loss, bounded)) + 1e-6
    assert loss(found) < loss(uniform) - 1e-4


def test_groups_are_layers_kinds_and_depths():
    names = list(make_model().config.matrix_sizes)
    groups = division_groups(make_model().config, names)
    assert frozenset(n for n in names if ".attention." in n) in groups
    assert frozenset(n for n in names if n.endswith("down_proj")) in groups
    assert frozenset(n for n in names if n.startswith("blocks.1.")) in groups
    assert frozenset({"embedding"}) in groups
    assert len(groups) == 1 + 2 + 7 + 2
    # All matrices as a group have nothing to share with.
    assert division_groups(make_model().config, ["blocks.0.attention.q_proj"]) == []


def test_nothing_is_searched_where_the_parts_say_all():
    with pytest.raises(ValueError, match=r"allocation=searched divides a budget.*num_terms=null"):
        Factorization(parts=[{"right": [1, 2], "num_terms": 1}], allocation="searched")
