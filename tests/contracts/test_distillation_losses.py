"""What holds for every distillation loss, whatever the teacher gives."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from distillation_rows import (
    CASES,
    LOSSES,
    NAIVE_CASES,
    TARGETS,
    WITH_TEMPERATURE,
    Row,
    evaluate,
    gradient,
    make,
    naive_value,
    reference,
    spoil,
)
from torch.testing import assert_close

import mobilellm.distillation
from mobilellm.distillation.losses.loss import LogitLoss, Structure
from mobilellm.distillation.losses.schedule import Ramp, value_at

CONF = Path(__file__).parents[2] / "conf/distillation"
every_loss = pytest.mark.parametrize(("name", "target"), CASES)
SEEDS = range(4)


def test_every_loss_is_offered_by_the_package():
    # A loss on pairs of answers has other inputs, and tests of its own.
    tested = {type(row.loss) for row in LOSSES.values()} | {mobilellm.distillation.DirectPreference}
    paths = {f"mobilellm.distillation.{one.__name__}" for one in tested}
    assert all(getattr(mobilellm.distillation, one.__name__) is one for one in tested)
    for file in CONF.glob("*.yaml"):
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        for name, loss in found.get("losses", {}).items():
            # A file with defaults may change a setting of a loss of the file that it extends.
            extends = "defaults" in found and "_target_" not in loss
            assert extends or loss["_target_"] in paths, (file, name)


@pytest.mark.parametrize(("name", "target"), NAIVE_CASES)
def test_it_agrees_with_a_naive_version(name, target):
    row = LOSSES[name]
    for seed in SEEDS:
        student, teacher, mask = make(target, seed)
        found = evaluate(row, target, student, teacher, mask)
        assert found.dtype == torch.float64
        assert_close(found, naive_value(row, target, student, teacher, mask), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize(("name", "target"), WITH_TEMPERATURE)
def test_temperature(name, target, temperature):
    row = LOSSES[name]
    student, teacher, mask = make(target, 7)
    found = evaluate(row, target, student, teacher, mask, temperature)
    expected = reference(row, target, student, teacher, mask, temperature)
    assert_close(found, expected, rtol=1e-6, atol=0)


@every_loss
def test_short_floats_are_computed_in_float32(name, target):
    row = LOSSES[name]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        student, teacher, mask = make(target, 3, dtype)
        found = evaluate(row, target, student, teacher, mask)
        assert found.dtype == torch.float32
        expected = reference(row, target, student, teacher, mask)
        assert_close(found.double(), expected, rtol=2e-5, atol=1e-6)
        slope = gradient(row, target, student, teacher, mask)
        assert slope.dtype == dtype
        exact = gradient(row, target, student.double(), teacher.double(), mask)
        assert_close(slope.double(), exact, rtol=10 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize(("temperature", "dtype"), [(1.0, torch.float64), (2.0, torch.float32)])
@every_loss
def test_floor_where_both_are_equal(name, target, temperature, dtype):
    row = LOSSES[name]
    for seed in SEEDS:
        _, teacher, mask = make(target, seed, dtype)
        found = evaluate(row, target, teacher, teacher, mask, temperature)
        floor = torch.zeros((), dtype=dtype)
        if name == "teacher cross entropy":
            entropies = Row(row.loss, lambda _, t: -sum(t * np.log(t)))
            floor = naive_value(entropies, target, teacher, teacher, mask, temperature).to(dtype)
        assert_close(found, floor, rtol=1e-6, atol=1e-6)
        slope = gradient(row, target, teacher, teacher, mask, temperature=temperature)
        if target != "attention":  # whose slope along a distribution's own sum is not 0
            assert_close(slope, torch.zeros_like(slope), rtol=0, atol=2e-6)


@every_loss
def test_it_is_least_where_both_are_equal(name, target):
    row = LOSSES[name]
    for seed in SEEDS:
        student, teacher, mask = make(target, seed)
        mask[:, 1] = True  # Of the first token alone, attention has no choice.
        floor = evaluate(row, target, teacher, teacher, mask)
        assert evaluate(row, target, student, teacher, mask) > floor + 1e-3


@every_loss
def test_no_gradient_to_the_teacher(name, target):
    row = LOSSES[name]
    student, teacher, mask = make(target, 0)
    leaf = teacher.clone().requires_grad_()
    cut = leaf * 1.0
    loss = evaluate(row, target, student.requires_grad_(), cut, mask)
    assert torch.autograd.grad(loss, leaf, allow_unused=True) == (None,)
    assert not evaluate(row, target, student.detach(), cut, mask).requires_grad


@pytest.mark.parametrize(
    ("temperature", "values"), [(1.0, (math.nan, -math.inf)), (2.0, (math.inf, 1e30))]
)
@every_loss
def test_masked_tokens_do_not_matter(name, target, temperature, values):
    row = LOSSES[name]
    student, teacher, mask = make(target, 1)
    options = {"temperature": temperature}
    expected = evaluate(row, target, student, teacher, mask, **options)
    slope = gradient(row, target, student, teacher, mask, **options)
    assert slope.abs().sum() > 0
    pairs = [
        pair
        for value in values
        for pair in (
            (spoil(student, mask, value, target), teacher),
            (student, spoil(teacher, mask, value, target)),
            (spoil(student, mask, value, target), spoil(teacher, mask, value, target)),
        )
    ]
    for spoiled in pairs:
        assert_close(evaluate(row, target, *spoiled, mask, **options), expected)
        found = gradient(row, target, *spoiled, mask, **options)
        assert_close(found, slope)
        hidden = spoil(torch.zeros_like(found), mask, 1.0, target).bool()
        assert (found[hidden] == 0).all()


@every_loss
def test_all_masked(name, target):
    row = LOSSES[name]
    student, teacher, mask = make(target, 2)
    nothing = torch.zeros_like(mask)
    student = spoil(student, nothing, math.nan, target)
    assert evaluate(row, target, student, teacher, nothing) == 0
    assert (gradient(row, target, student, teacher, nothing) == 0).all()


@every_loss
def test_neither_batch_nor_chunks_matter(name, target):
    for seed in SEEDS:
        check_batches_and_chunks(LOSSES[name], target, *make(target, seed))


def check_batches_and_chunks(row, target, student, teacher, mask):
    whole = evaluate(row, target, student, teacher, mask) * mask.sum()
    slope = gradient(row, target, student, teacher, mask) * mask.sum()
    cut = [slice(i, i + 1) for i in range(len(mask))]
    parts = [(student[i], teacher[i], mask[i]) for i in cut]
    assert_close(sum(evaluate(row, target, *p) * p[2].sum() for p in parts), whole)
    assert_close(torch.cat([gradient(row, target, *p) * p[2].sum() for p in parts]), slope)
    repeated = [x.repeat(3, *[1] * (x.dim() - 1)) for x in (student, teacher, mask)]
    assert_close(evaluate(row, target, *repeated) * mask.sum(), whole)


@pytest.mark.parametrize(("name", "target"), [case for case in CASES if case[1] != "attention"])
def test_any_leading_shape(name, target):
    row = LOSSES[name]
    student, teacher, mask = make(target, 4)
    expected = evaluate(row, target, student, teacher, mask)
    flat = [student.flatten(0, 1), teacher.flatten(0, 1), mask.flatten()]
    assert_close(evaluate(row, target, *flat), expected)
    assert_close(evaluate(row, target, *(x[None, :, None] for x in flat)), expected)
    one = evaluate(row, target, student[0, 0], teacher[0, 0], torch.tensor(True))
    assert_close(one, reference(row, target, student[:1, :1], teacher[:1, :1], mask[:1, :1]))


@every_loss
def test_gradients_are_those_of_the_values(name, target):
    row = LOSSES[name]
    for seed, temperature in ((5, 1.0), (6, 2.0)):
        student, teacher, mask = make(target, seed)
        if target == "attention":
            # Interior points: finite differences step below 0 where a key is not attended to.
            student = student.clamp(min=0.01)
        student.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, row=row, rest=(teacher, mask, temperature): evaluate(row, target, x, *rest),
            student,
        )


def test_a_gradient_can_be_taken_twice():
    student, teacher, mask = make("bucket", 0)
    loss = evaluate(LOSSES["forward KL"], "bucket", student.requires_grad_(), teacher, mask)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("target", TARGETS)
def test_teacher_cross_entropy_has_the_gradient_of_forward_kl(target):
    case = make(target, 0)
    found = gradient(LOSSES["teacher cross entropy"], target, *case, temperature=2.0)
    assert_close(found, gradient(LOSSES["forward KL"], target, *case, temperature=2.0))


@pytest.mark.parametrize(("name", "target"), WITH_TEMPERATURE)
def test_temperature_squared_keeps_the_size_of_the_gradient(name, target):
    # Hinton's limit: for high temperatures the gradient no longer depends on it.
    case = make(target, 0)
    found, half = (gradient(LOSSES[name], target, *case, temperature=t) for t in (2e3, 1e3))
    assert found.abs().max() > 1e-3
    assert_close(found, half, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    "name", [n for n, row in LOSSES.items() if isinstance(row.loss, LogitLoss)]
)
def test_weight_and_temperature_follow_a_schedule(name):
    target = LOSSES[name].targets[0]
    student, teacher, mask = make(target, 0)
    ramp = Ramp(start=4.0, end=1.0, begin=0.25, until=0.75)
    loss = replace(LOSSES[name].loss, weight=ramp)
    if target in TARGETS:
        loss = replace(loss, temperature=ramp)
    for progress, expected in [(0.0, 4.0), (0.25, 4.0), (0.5, 2.5), (0.75, 1.0), (1.0, 1.0)]:
        assert value_at(loss.weight, progress) == expected
        found = loss(student, teacher, mask, progress)
        row = LOSSES[name]
        assert_close(found, reference(row, target, student, teacher, mask, expected))


@pytest.mark.parametrize(
    "name", [n for n, row in LOSSES.items() if isinstance(row.loss, LogitLoss)]
)
def test_other_vocabularies_and_shapes_are_refused(name):
    loss = LOSSES[name].loss
    small = Structure(num_layers=1, hidden_size=8, num_heads=(2,), vocab_size=10)
    with pytest.raises(ValueError, match="student has vocab_size=10, the teacher 11"):
        loss.check(small, replace(small, vocab_size=11))
    loss.check(small, replace(small, hidden_size=9, num_layers=7))
    student, teacher, mask = make("logits", 0)
    with pytest.raises(ValueError, match="both need the same tokens and vocabulary"):
        loss(student, teacher[..., 1:], mask)
    with pytest.raises(ValueError, match="mask has shape"):
        loss(student, teacher, mask[:1])
    with pytest.raises(TypeError, match=r"mask has dtype torch.int64; give torch.bool"):
        loss(student, teacher, mask.long())
