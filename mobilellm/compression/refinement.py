"""Gradient steps on calibration text that bring a compressed model closer to the dense one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilellm.ranges import MAX_SEED, Range, check_fields

# How often the loss on the held-out batches is measured, and after how many measurements without
# an improvement the steps end.
MEASUREMENTS = 10
PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Steps of Adam on calibration batches, which end early by the loss on held-out batches.

    Raises:
        ValueError: a number is out of range.
    """

    steps: int
    """Largest number of steps, each on one batch of the calibration text."""
    learning_rate: float
    """Size of the first step of each tensor, relative to the root mean square of its entries, so
    that one value suits layers of all widths. It falls to 0 as a half cosine."""
    held_out: float = 0.125
    """Share of the calibration batches on which no step is made, but the loss is measured. The
    weights with the lowest loss on them are kept."""
    seed: int = 0
    """Of the order of the batches."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(
            self,
            steps=Range(at_least=1, cap=1_000_000),
            learning_rate=Range(above=0, cap=10),
            held_out=Range(above=0, below=1),
            seed=Range(at_least=0, cap=MAX_SEED),
        )

    def divided(self, batches: int) -> tuple[range, range]:
        """Indices of the batches for steps, and of the held-out ones, which are the last.

        Raises:
            ValueError: there are fewer than two batches.
        """
        if batches < 2:
            raise ValueError(
                f"the calibration text has {batches} batch, but held_out={self.held_out} needs at "
                "least two; give more calibration_tokens or a smaller micro_batch_size"
            )
        held_out = min(max(1, round(self.held_out * batches)), batches - 1)
        return range(batches - held_out), range(batches - held_out, batches)


@dataclass(frozen=True)
class RefinedLoss:
    """Mean loss on the held-out batches before the first step, and of the kept weights."""

    before: float
    after: float


def refine(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[int], Tensor],
    batches: int,
    settings: Refinement,
) -> RefinedLoss:
    """Minimise a loss over calibration batches; the parameters with the best loss are kept.

    Args:
        parameters: are changed in place.
        loss: returns the loss of the batch with the given index, with a gradient.
        batches: number of batches.
        settings: of the steps.

    Raises:
        ValueError: there are fewer than two batches.
    """
    own, held_out = settings.divided(batches)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": settings.learning_rate * _size(p)} for p in parameters]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)
    )

    def measured() -> float:
        with torch.no_grad():
            return sum(float(loss(number)) for number in held_out) / len(held_out)

    best, first = _Best(parameters, measured()), math.ceil(settings.steps / MEASUREMENTS)
    before = best.loss
    for step in range(1, settings.steps + 1):
        number = own[int(torch.randint(len(own), (1,), generator=generator))]
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(number).backward()
        optimizer.step()
        schedule.step()
        if step % first == 0 or step == settings.steps:
            best.offer(measured())
            if best.unimproved == PATIENCE:
                break
    best.restore()
    return RefinedLoss(before, best.loss)


class _Best:
    """The parameters with the lowest loss so far."""

    def __init__(self, parameters: Sequence[nn.Parameter], loss: float) -> None:
        self.parameters, self.loss, self.unimproved = parameters, loss, 0
        self._values = [p.detach().clone() for p in parameters]

    def offer(self, loss: float) -> None:
        if not loss < self.loss:  # NaN is no improvement.
            self.unimproved += 1
            return
        self.loss, self.unimproved = loss, 0
        self._values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value in zip(self.parameters, self._values, strict=True):
            parameter.copy_(value)
            parameter.grad = None


def _size(parameter: nn.Parameter) -> float:
    """Root mean square of the entries; 1 for a tensor of zeros, which has no scale."""
    return float(parameter.detach().double().square().mean().sqrt()) or 1.0
