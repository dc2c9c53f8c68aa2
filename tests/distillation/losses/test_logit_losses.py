"""What is particular to single losses on logits, and numbers that are refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mobilellm.distillation.losses.forward_kl import ForwardKL
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE
from mobilellm.distillation.losses.jensen_shannon import JensenShannon
from mobilellm.distillation.losses.logit_mse import LogitMSE
from mobilellm.distillation.losses.loss import Structure
from mobilellm.distillation.losses.reverse_kl import ReverseKL
from mobilellm.distillation.losses.schedule import Ramp
from mobilellm.distillation.losses.skewed_kl import SkewedKL
from mobilellm.distillation.losses.targets import TopK, top_k_of


def make_logits():
    """Student, teacher and mask."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        2 * torch.randn(3, 4, 9, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student, teacher, torch.rand(3, 4, generator=generator) < 0.7


def test_jensen_shannon_is_symmetric_bounded_and_tends_to_both_divergences():
    student, teacher, mask = make_logits()
    value = {b: JensenShannon(beta=b)(student, teacher, mask) for b in (1e-6, 0.3, 0.5, 1 - 1e-6)}
    assert_close(JensenShannon()(teacher, student, mask), value[0.5])
    assert_close(JensenShannon(beta=0.7)(teacher, student, mask), value[0.3])
    assert JensenShannon()(30 * student, 30 * teacher, mask) <= math.log(2)
    assert_close(value[1e-6] / 1e-6, ForwardKL()(student, teacher, mask), rtol=1e-3, atol=0)
    assert_close(value[1 - 1e-6] / 1e-6, ReverseKL()(student, teacher, mask), rtol=1e-3, atol=0)


def test_skewed_divergences_are_bounded_and_tend_to_the_plain_ones():
    student, teacher, mask = make_logits()
    for reverse, plain in ((False, ForwardKL()), (True, ReverseKL())):
        found = SkewedKL(alpha=1e-6, reverse=reverse)(student, teacher, mask)
        assert_close(found, plain(student, teacher, mask), rtol=1e-3, atol=0)
        far = SkewedKL(alpha=0.1, reverse=reverse)(-30 * teacher, 30 * teacher, mask)
        assert_close(far, far.new_tensor(-math.log(0.1)))


def test_logit_mse_needs_all_logits():
    student, teacher, mask = make_logits()
    with pytest.raises(ValueError, match="needs all logits of the teacher, but got its 4 highest"):
        LogitMSE()(student, top_k_of(teacher, 4), mask)
    structure = Structure(num_layers=1, hidden_size=8, num_heads=(2,), vocab_size=10)
    with pytest.raises(ValueError, match="a logit store has the most likely tokens only"):
        LogitMSE().check(structure, replace(structure, num_layers=0, captures=()))
    with pytest.raises(ValueError, match=r"temperature=2.0 would have no effect on LogitMSE"):
        LogitMSE(temperature=2.0)


@pytest.mark.parametrize(
    ("make_loss", "message"),
    [
        (lambda: ForwardKL(weight=-1.0), "weight=-1.0 must be at least 0"),
        (lambda: HiddenStateMSE(weight=math.nan), "weight=nan must be a finite number"),
        (lambda: ReverseKL(temperature=0.0), "temperature=0.0 must be above 0"),
        (lambda: ForwardKL(temperature=Ramp(start=1.0, end=0.0)), "temperature=0.0 must be"),
        (lambda: ForwardKL(weight=Ramp(start=-1.0, end=0.0)), "weight=-1.0 must be"),
        (lambda: ForwardKL(rest="drop"), "rest='drop' is not known; use one of bucket, renorm"),
        (lambda: JensenShannon(beta=1.0), "beta=1.0 must be above 0 and below 1"),
        (lambda: SkewedKL(alpha=0.0), "alpha=0.0 must be above 0 and below 1; for the limit 0"),
        (lambda: JensenShannon(beta=0), "beta=0 must be above 0 and below 1"),
    ],
)
def test_numbers_out_of_range(make_loss, message):
    with pytest.raises(ValueError, match=message):
        make_loss()


def test_the_teachers_k_may_be_stored_in_short_floats():
    student, teacher, mask = make_logits()
    top = top_k_of(teacher, 4)
    short = TopK(top.indices, top.log_probabilities.float(), top.temperature)
    found = ForwardKL()(student, short, mask)
    assert_close(found, ForwardKL()(student, top, mask), rtol=1e-5, atol=1e-6)
