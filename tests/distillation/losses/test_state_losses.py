"""Losses on captured states: values known in closed form, projections, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mobilellm.distillation import attention_kl, hidden_state_cosine, hidden_state_mse
from mobilellm.distillation.losses.attention_kl import AttentionKL
from mobilellm.distillation.losses.hidden_state_cosine import HiddenStateCosine
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE
from mobilellm.distillation.losses.loss import Structure
from mobilellm.models import MobileLLM, ModelConfig

SMALL = Structure(num_layers=2, hidden_size=8, num_heads=(2, 2), vocab_size=30)
ALL = torch.ones(2, 3, dtype=torch.bool)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine_sees_directions_alone():
    student = randn(2, 3, 5)
    assert_close(hidden_state_cosine(student, 7 * student, ALL).item(), 0.0, rtol=0, atol=1e-12)
    assert_close(hidden_state_cosine(student, -student, ALL).item(), 2.0)
    across = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    assert hidden_state_cosine(across, across.flip(0), ALL[:, :1]) == 1.0


def test_a_state_without_direction_counts_as_one_and_has_no_gradient():
    student = torch.zeros(2, 3, 5, requires_grad=True)
    loss = hidden_state_cosine(student, torch.zeros(2, 3, 5), ALL)
    assert loss == 1
    loss.backward()
    assert (student.grad == 0).all()


@pytest.mark.parametrize("loss", [HiddenStateMSE, HiddenStateCosine])
def test_pairs_are_added(loss):
    student = [randn(2, 3, 5, seed=i) for i in range(3)]
    teacher = [randn(2, 3, 5, seed=9 + i) for i in range(3)]
    one = [loss()([s], [t], ALL) for s, t in zip(student, teacher, strict=True)]
    assert_close(loss()(student, teacher, ALL), sum(one))
    with pytest.raises(ValueError, match="zip"):
        loss()(student, teacher[:2], ALL)


@pytest.mark.parametrize("loss", [HiddenStateMSE, HiddenStateCosine])
def test_a_learned_map_bridges_widths_and_does_not_see_masked_tokens(loss):
    student = [randn(2, 3, 5, seed=i).requires_grad_() for i in range(2)]
    teacher = [randn(2, 3, 7, seed=9 + i) for i in range(2)]
    maps = [nn.Linear(5, 7, bias=False).double() for _ in range(2)]
    mask = torch.tensor([[True, False, True], [False, True, True]])

    def gradients(states):
        value = loss(projection=True)(states, teacher, mask, lambda index, x: maps[index](x))
        leaves = [*student, *(one.weight for one in maps)]
        return value, torch.autograd.grad(value, leaves)

    pure = {HiddenStateMSE: hidden_state_mse, HiddenStateCosine: hidden_state_cosine}[loss]
    value, expected = gradients(student)
    by_hand = sum(
        pure(s @ m.weight.T, t, mask) for s, m, t in zip(student, maps, teacher, strict=True)
    )
    assert_close(value, by_hand)
    assert all(slope.abs().sum() > 0 for slope in expected)
    spoiled = [states.masked_fill(~mask[..., None], math.nan) for states in student]
    again, found = gradients(spoiled)
    assert_close(again, value)
    assert_close(found, expected)


def test_attention_against_uniform_maps_is_entropy():
    # KL(uniform ‖ uniform over fewer keys) = log of the ratio, as students see more keys.
    teacher = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 2, 3, 4)
    student = torch.full((1, 2, 3, 4), 0.25)
    mask = torch.tensor([[True, True, False]])
    assert_close(attention_kl(student, teacher, mask).item(), math.log(4))


def test_attention_that_has_rounded_to_zero_stays_finite():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        scores = torch.tensor([200.0, 0.0], dtype=dtype).requires_grad_()
        student = scores.softmax(-1).expand(1, 1, 1, 2)
        teacher = torch.tensor([0.0, 1.0], dtype=dtype).expand(1, 1, 1, 2)
        assert (student == 0).any() or dtype == torch.float64
        loss = attention_kl(student, teacher, torch.tensor([[True]]))
        loss.backward()
        assert loss.isfinite()
        assert loss > 5
        assert scores.grad.isfinite().all()


def test_mean_over_heads_compares_any_numbers_of_them():
    student, teacher = (randn(2, h, 3, 3, seed=h).softmax(-1) for h in (2, 5))
    found = attention_kl(student, teacher, ALL, heads="mean")
    expected = attention_kl(
        student.mean(1, keepdim=True), teacher.mean(1, keepdim=True), ALL, heads="match"
    )
    assert_close(found, expected)
    with pytest.raises(ValueError, match="as many heads unless heads=mean"):
        attention_kl(student, teacher, ALL)


@pytest.mark.parametrize(
    "loss", [HiddenStateMSE(), HiddenStateMSE(capture="feed_forward"), HiddenStateCosine(),
             HiddenStateMSE(capture="embedding"), AttentionKL(), AttentionKL(heads="mean")],
    ids=lambda loss: f"{type(loss).__name__}-{loss.capture}",
)  # fmt: skip
def test_what_a_model_captures_can_be_learned_from(loss):
    torch.manual_seed(0)
    student, teacher = (MobileLLM(ModelConfig(
        vocab_size=30, hidden_size=8, intermediate_size=8, num_blocks=1, block_repeats=2,
        num_attention_heads=2,
    )) for _ in range(2))  # fmt: skip
    with torch.no_grad():  # Fresh weights are so small that the models would be nearly equal.
        for parameter in [*student.parameters(), *teacher.parameters()]:
            parameter.mul_(5)
    ids = torch.randint(30, (2, 6))
    padding = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    mine, theirs = (
        model(ids, attention_mask=padding, capture=(loss.capture,)).captured[loss.capture]
        for model in (student, teacher)
    )
    assert loss(theirs, theirs, padding).item() == pytest.approx(0, abs=1e-6)
    value = loss(mine, theirs, padding)
    assert value > 1e-6
    value.backward()
    slopes = [p.grad for p in student.parameters() if p.grad is not None]
    assert slopes and all(slope.isfinite().all() for slope in slopes)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: AttentionKL(heads="all"),
            ValueError,
            "heads='all' is not known; use one of match",
        ),
        (
            lambda: AttentionKL(projection=True),
            ValueError,
            "projection=true maps hidden states, not attention",
        ),
        (
            lambda: AttentionKL(capture="hidden_states"),
            ValueError,
            "capture='hidden_states' cannot be compared by AttentionKL; use one of attention",
        ),
        (
            lambda: HiddenStateCosine(capture="attention"),
            ValueError,
            "use one of hidden_states, feed_forward, embedding",
        ),
        (
            lambda: HiddenStateMSE().check(SMALL, Structure(2, 9, (2, 2), 30)),
            ValueError,
            "the student has hidden_size=8, the teacher 9; set projection=true",
        ),
        (
            lambda: AttentionKL().check(SMALL, Structure(2, 8, (2, 2), 30, ("hidden_states",))),
            ValueError,
            "AttentionKL needs the teacher's attention, but this teacher has hidden_states",
        ),
        (
            lambda: HiddenStateMSE().check(SMALL, Structure(0, 0, (), 30, ())),
            ValueError,
            "this teacher has only probabilities; use another loss or another teacher",
        ),
        (
            lambda: hidden_state_mse(randn(2, 3, 4), randn(2, 3, 5), ALL),
            ValueError,
            r"have shape \(2, 3, 5\), the student's \(2, 3, 4\); both need the same tokens",
        ),
        (lambda: hidden_state_cosine(randn(2, 3, 4), randn(2, 3, 4), ALL.int()), TypeError, "bool"),
        (
            lambda: attention_kl(randn(2, 1, 4, 4), randn(2, 1, 4, 4), ALL),
            ValueError,
            r"mask has shape \(2, 3\); the tokens have \(2, 4\)",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_projection_or_equal_widths_will_do():
    HiddenStateMSE(projection=True).check(SMALL, Structure(2, 9, (2, 2), 30))
    HiddenStateMSE().check(SMALL, Structure(5, 8, (3,) * 5, 40))
