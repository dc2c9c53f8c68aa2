"""Layers of any module are replaced by pattern; sharing and ties survive or are refused."""

import pytest
import torch
from torch import nn

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.algorithms.replace import replace_modules_
from mobilellm.layers.compressed import FactorizedLinear, KroneckerLinear


def exact(name, layer):
    """As many terms as represent the layer exactly."""
    rows, columns = layer.weight.shape
    factors = nearest_kronecker(layer.weight.detach(), (rows // 2, columns), (2, 1), 2)
    return FactorizedLinear([KroneckerLinear(*factors)], layer.bias)


def make_model():
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    return nn.Sequential(nn.Linear(4, 8), shared, nn.ReLU(), shared, nn.Linear(8, 6, bias=False))


def test_the_function_stays_and_a_shared_module_stays_shared():
    model, x = make_model(), torch.randn(5, 4)
    expected = model(x)
    replaced = replace_modules_(model, ["*"], exact)
    assert set(replaced) == {"0", "1", "4"}
    assert model[1] is model[3]
    assert isinstance(model[1], FactorizedLinear)
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_only_what_matches_is_replaced():
    model = make_model()
    replace_modules_(model, ["[04]"], exact)
    assert [type(m).__name__ for m in model] == [
        "FactorizedLinear", "Linear", "ReLU", "Linear", "FactorizedLinear",
    ]  # fmt: skip


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="'encoder' matches no layer of the model; it has 0, 1"):
        replace_modules_(make_model(), ["0", "encoder"], exact)


def test_a_tied_weight_in_the_way_is_refused_and_nothing_is_changed():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="2 shares its weight with another module"):
        replace_modules_(model, ["1", "2"], exact)
    assert isinstance(model[1], nn.Linear)
