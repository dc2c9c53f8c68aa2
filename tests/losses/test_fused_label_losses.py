"""The two passes that GPUs compile, compared with the blocks of the CPU."""

import pytest
import torch
from torch.testing import assert_close

from mobilellm.losses.fused_label_losses import can_compile, fused_label_losses, two_pass_losses
from mobilellm.losses.label_losses import label_losses

ROWS, VOCAB = 19, 37


def make_inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits, *teachers = (3 * torch.randn(3, ROWS, VOCAB, generator=generator)).to(dtype)
    targets = torch.randint(VOCAB, (ROWS,), generator=generator)
    targets[::4] = -100
    return logits, targets, torch.rand(ROWS, generator=generator), teachers


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("teachers", [0, 2])
def test_two_passes_equal_the_blocks(by_row, teachers):
    logits, targets, weights, theirs = make_inputs()
    soft = [(theirs[i], 0.5 + i) for i in range(teachers)]
    weight = weights if by_row else 0.7
    expected = label_losses(logits, targets, weight, soft)
    found = two_pass_losses(
        logits, targets, torch.as_tensor(weight), [t for t, _ in soft],
        [torch.tensor(f) for _, f in soft], torch.float32,
    )  # fmt: skip
    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other)


def test_the_gradient_has_the_type_that_is_asked_for():
    logits, targets, _, _ = make_inputs(torch.bfloat16)
    losses, sums, gradient = two_pass_losses(
        logits, targets, torch.tensor(1.0), [], [], torch.bfloat16
    )
    exact = label_losses(logits.float(), targets, 1.0)
    assert (losses.dtype, sums.dtype, gradient.dtype) == (*[torch.float32] * 2, torch.bfloat16)
    assert_close(losses, exact[0])
    assert_close(gradient.float(), exact[2], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_compiled_passes_equal_the_blocks():
    logits, targets, weights, theirs = make_inputs()
    for count in (ROWS, 7):  # the second size makes the number of rows a variable of the code
        soft = [(theirs[0][:count], 2.0)]
        inputs = (logits[:count], targets[:count], weights[:count], soft)
        found = fused_label_losses(*inputs, torch.float32)
        for mine, other in zip(found, label_losses(*inputs), strict=True):
            assert_close(mine, other)


def test_cpus_do_not_compile_the_losses():
    assert not can_compile(torch.device("cpu"))
