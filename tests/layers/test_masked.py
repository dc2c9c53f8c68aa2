"""Masked matrices: what is masked is zero and stays so."""

import pytest
import torch
from torch import nn

from mobilellm.layers.masked import MaskedEmbedding, MaskedLinear, MaskedShape


def test_masked_weights_are_zero_and_stay_so():
    mask = torch.rand(6, 4) > 0.5
    layer = MaskedLinear(torch.randn(6, 4), mask, torch.randn(6))
    assert layer.shape == MaskedShape(nonzero=int(mask.sum()))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    x = torch.randn(5, 4)
    for _ in range(3):
        layer(x).square().sum().backward()
        optimizer.step()
    assert not layer.materialize()[~mask].any()
    assert not layer.weight[~mask].any()
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight * mask, layer.bias))
    layer.reset_buffers_()
    assert layer.shape.nonzero == 24


def test_a_masked_table_serves_both_ends():
    mask = torch.rand(6, 4) > 0.5
    table = MaskedEmbedding(torch.randn(6, 4), mask)
    ids, hidden = torch.randint(6, (2, 3)), torch.randn(2, 3, 4)
    torch.testing.assert_close(table(ids), table.materialize()[ids])
    torch.testing.assert_close(table.unembed(hidden), hidden @ table.materialize().T)


def test_masks_and_biases_of_other_sizes_are_refused():
    weight = torch.randn(6, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"mask is torch.float64 \(6, 4\); give bool \(6, 4\)"):
        MaskedLinear(weight, weight)
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); give \(6,\) or None"):
        MaskedLinear(weight, weight > 0, weight[0])
