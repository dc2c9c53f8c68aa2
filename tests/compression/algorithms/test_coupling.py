"""Units of coupled layers are reordered together, and what is no order is refused."""

import re

import pytest
import torch
from torch import nn

from mobilellm.compression.algorithms.coupling import Coupling, permute_units_


def test_any_module_and_the_biases_of_the_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(4, 5)
    wanted, bias, last = model(x), model[0].bias.detach().clone(), model[2].bias.detach().clone()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permute_units_(model, Coupling(name="hidden", rows=("0",), columns=("2",), num_units=6), order)
    torch.testing.assert_close(model(x), wanted, atol=1e-6, rtol=1e-6)
    assert model[0].bias.equal(bias[order])
    assert model[2].bias.equal(last)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ("3",)}, "coupling hidden: the model has no module 3; make the coupling from"),
        ({"columns": ("1",)}, "coupling hidden: 1 is Tanh, not a dense nn.Linear; reorder or"),
        ({"columns": ("0",)}, "0 has 5 columns, but num_units=6 x unit=1 is 6"),
        ({"unit": 2}, "0 has 6 rows, but num_units=6 x unit=2 is 12"),
        ({"groups": 2}, "order moves unit 3 of group 1 to group 0; units may move only within"),
    ],
)
def test_couplings_are_checked_before_anything_moves(changes, message):
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    before = [p.clone() for p in model.parameters()]
    coupling = Coupling(**(dict(name="hidden", rows=("0",), columns=("2",), num_units=6) | changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        permute_units_(model, coupling, torch.tensor([3, 0, 5, 1, 4, 2]))
    assert all(a.equal(b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4], [[0, 1, 2, 3]]])
def test_an_order_is_a_permutation(order):
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    coupling = Coupling(name="hidden", rows=("0",), columns=("1",), num_units=4)
    with pytest.raises(ValueError, match="must be a permutation of 0…3"):
        permute_units_(model, coupling, torch.tensor(order))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": (), "columns": ()}, "coupling c names no layer; give rows, columns or both"),
        ({"num_units": 0}, "num_units=0 must be a whole number of at least 1"),
        ({"unit": True}, "unit=True must be a whole number of at least 1"),
        ({"groups": 4}, "num_units=6 must be divisible by groups=4; give groups of equal size"),
    ],
)
def test_a_coupling_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Coupling(**(dict(name="c", rows=("a",), columns=("b",), num_units=6) | changes))
