"""Blocks that multiply in float8, emulated, compared with exact ones."""

import pytest
import torch
from small_run import make_model

pytest.importorskip("torchao")

from mobilellm.training.float8 import use_float8_


def test_the_products_of_the_blocks_are_rounded_and_no_weight_changes():
    model = make_model(hidden_size=32, intermediate_size=48, num_attention_heads=2)
    exact = model(torch.arange(16).view(2, 8)).logits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = model.unembed(torch.ones(1, 32))

    assert use_float8_(model, emulate=True) == 7 * len(model.blocks)
    assert before.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value)
    assert torch.equal(head, model.unembed(torch.ones(1, 32))), "the head is exact"
    found = model(torch.arange(16).view(2, 8)).logits
    error = ((found - exact).norm() / exact.norm()).item()
    assert 1e-4 < error < 0.1, "three bits of the mantissa round by at most 6 %"
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        use_float8_(make_model(hidden_size=24, intermediate_size=20), emulate=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_devices_without_float8_are_refused():
    with pytest.raises(ValueError, match=r"trainer\.float8=false"):
        use_float8_(make_model())
