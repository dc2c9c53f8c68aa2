"""The search over the matrices' shares of a budget."""

import pytest
import torch

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.allocation import proposals
from mobilellm.compression.apply import dense_weight
from mobilellm.compression.error_curve import ErrorCurve
from mobilellm.compression.factorization import Factorization
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
    moderate = extreme = 0
    for budgets in found:
        assert sum(budgets.values()) <= division.allowed
        # Each can be built: what is not left dense has room for its parts.
        shapes = {n: division.shape_for(n, kept) for n, kept in budgets.items()
                  if kept < division.sizes[n]}  # fmt: skip
        division.check(shapes)
        relative = [kept / uniform[name] for name, kept in budgets.items()]
        assert max(relative) > 1 > min(relative)
        moderate += all(0.5 <= share < 1.9 for share in relative)
        extreme += any(share >= 1.9 for share in relative)
    assert moderate >= 2
    assert extreme >= 1


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
        layers=["blocks.*.feed_forward.*"], parts=PARTS[parts], allocation="searched",
        budget={"ratio": 0.5},
    )  # fmt: skip
    model = make_model()
    plan = recipe.plan(model, batches())
    budget_use = recipe.budget_use(model, plan)
    assert 0.9 * budget_use.allowed < budget_use.used <= budget_use.allowed
    small = recipe.apply(model, plan, batches()).model
    assert small(batches()[0]["input_ids"]).logits.isfinite().all()


def test_nothing_is_searched_where_the_parts_say_all():
    with pytest.raises(ValueError, match=r"allocation=searched divides a budget.*num_terms=null"):
        Factorization(parts=[{"right": [1, 2], "num_terms": 1}], allocation="searched")
