"""Direct preference optimisation against loops over pairs, and its gradient."""

import math

import pytest
import torch

from mobilellm.distillation.losses.direct_preference import DirectPreference, direct_preference
from mobilellm.distillation.losses.loss import Structure


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.2)])
def test_it_is_that_of_a_loop_over_pairs(beta, smoothing):
    torch.manual_seed(2)
    sums = 5 * torch.randn(4, 6, dtype=torch.float64)
    expected = []
    for chosen, rejected, ref_chosen, ref_rejected in zip(*sums.tolist(), strict=True):
        odds = math.exp(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))
        right = odds / (1 + odds)
        expected.append(-(1 - smoothing) * math.log(right) - smoothing * math.log(1 - right))
    loss = DirectPreference(beta=beta, label_smoothing=smoothing)
    found = loss(sums[0], sums[1], reference=sums[2:].T)
    assert found.tolist() == pytest.approx(expected)


def test_the_gradient_is_that_of_the_paper():
    """The equation after (7): β times the probability that the pair is ordered wrongly."""
    torch.manual_seed(3)
    sums = torch.randn(4, 8, dtype=torch.float64) * 5
    chosen, rejected = (row.requires_grad_() for row in sums[:2])
    direct_preference(chosen, rejected, *sums[2:], beta=0.3).sum().backward()
    wrong = 1 / (1 + torch.exp(0.3 * (chosen - rejected - sums[2] + sums[3]))).detach()
    torch.testing.assert_close(chosen.grad, -0.3 * wrong)
    torch.testing.assert_close(rejected.grad, 0.3 * wrong)


def test_a_model_that_is_its_reference_has_a_loss_of_ln_2():
    sums = torch.randn(2, 3)
    losses = direct_preference(*sums, *sums, beta=0.7)
    torch.testing.assert_close(losses, torch.full((3,), math.log(2)))


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"label_smoothing": 0.5}, {"weight": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DirectPreference(**wrong)


def test_a_reference_without_all_probabilities_is_refused():
    model = Structure(num_layers=2, hidden_size=8, num_heads=(2, 2), vocab_size=50)
    loss = DirectPreference()
    loss.check(model, model)
    with pytest.raises(ValueError, match="which a logit store does not have"):
        loss.check(model, Structure(0, 0, (), 50, captures=()))
    with pytest.raises(ValueError, match="vocab_size=50, the reference 60"):
        loss.check(model, Structure(2, 8, (2, 2), 60))
