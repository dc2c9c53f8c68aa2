"""torch's Muon with one matrix product for all matrices of the same size.

A deep-thin model has hundreds of small matrices, and one by one each of them costs the overhead of
all iterations. In batches a step takes a fifth to two thirds of the time (docs/benchmarks.md).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mobilellm.bfloat16 import multiplies_bfloat16
from mobilellm.optim.shared_work import compute_shared, is_shared

LARGEST_BATCH = 2**24
"""Numbers in a batch, unless a single matrix has more: 32 MB for each of three copies."""
LARGEST_BATCH_ON_CPU = 2**20
"""The same on a CPU, which is slower if a batch does not fit its cache."""

Batch = list[tuple[Tensor, Tensor]]
"""Parameters with their gradients."""


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon`, with the same options and state; sharded matrices are left to torch.

    As for torch's fused optimizers, a step changes nothing if the attribute `found_inf` is a tensor
    with the value 1, which is not read by the host.

    With several GPUs, each orthogonalises a part of the matrices of a batch, and they exchange the
    results; gradients must be equal on all ranks, as they are with DDP.
    """

    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; `closure` computes the loss, which is returned."""
        # Only a DTensor has a local part; the import of its class takes 0.7 seconds.
        if any(hasattr(p, "to_local") for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for batch in _batches(group["params"]):
                self._update(batch, group)
        return loss

    def _update(self, batch: Batch, group: dict[str, Any]) -> None:
        """Update matrices of the same size."""
        averages = [self._averaged(*member, group) for member in batch]
        orthogonalize = partial(
            orthogonalized,
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        if len(averages) == 1:
            updates = orthogonalize(averages[0]).unsqueeze(0)
        elif is_shared(averages[0].device, len(averages)):
            dtype = product_type(averages[0].device)
            updates = compute_shared(orthogonalize, torch.stack(averages), dtype)
        else:
            updates = orthogonalize(torch.stack(averages))
        rate = group["lr"] * rate_factor(averages[0].shape, group["adjust_lr_fn"])
        kept = 1 - group["lr"] * group["weight_decay"]
        refused = self._refused
        if refused is not None:
            kept = torch.where(refused, 1.0, kept)
            updates = updates.masked_fill(refused, 0.0)
        for (parameter, _), update in zip(batch, updates, strict=True):
            parameter.mul_(kept)
            parameter.add_(update, alpha=-rate)

    @property
    def _refused(self) -> Tensor | None:
        """Whether the step changes nothing, as a bool scalar on the device; None: it does."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        return None if found_inf is None else found_inf.bool()

    def _averaged(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Add the gradient to the momentum, and return the matrix to orthogonalise."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average: Tensor = state["momentum_buffer"]
        if (refused := self._refused) is None:
            average.lerp_(gradient, 1 - group["momentum"])
        else:
            changed = average.lerp(gradient, 1 - group["momentum"])
            average.copy_(torch.where(refused, average, changed))
        return gradient.lerp(average, group["momentum"]) if group["nesterov"] else average


def orthogonalized(
    matrices: Tensor, coefficients: Sequence[float], *, steps: int, eps: float
) -> Tensor:
    """Move all singular values towards 1 by Newton-Schulz iterations.

    Args:
        matrices: (number, rows, columns), or one matrix.
        coefficients: of the powers 1, 3 and 5 in the polynomial.
        steps: number of iterations.
        eps: smallest norm that a matrix is divided by.

    Returns:
        Matrices of the same sizes, of the type that `product_type` gives for their device.

    Source: Jordan et al. 2024, Muon.
    """
    # For a single matrix, a product of matrices is faster than a batch of one.
    add_product = torch.addmm if matrices.ndim == 2 else torch.baddbmm
    linear, cubic, quintic = coefficients
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    result = (matrices.mT if is_tall else matrices).to(product_type(matrices.device))
    result = result / torch.linalg.matrix_norm(result, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = result @ result.mT
        polynomial = add_product(gram, gram, gram, beta=cubic, alpha=quintic)
        result = add_product(result, polynomial, result, beta=linear)
    return result.mT if is_tall else result


def product_type(device: torch.device) -> torch.dtype:
    """bfloat16, as in Muon's paper, or float32 on devices that would emulate it."""
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def rate_factor(size: Sequence[int], adjust_learning_rate: str | None) -> float:
    """Factor of the learning rate for matrices of a size (rows, columns).

    Source: `match_rms_adamw` Liu et al. 2025, arXiv:2502.16982, section 2.2; `original` Jordan et
    al. 2024.
    """
    rows, columns = size
    if adjust_learning_rate == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def _batches(parameters: Sequence[Tensor]) -> Iterator[Batch]:
    """Divide into batches of equal size, device and type, of at most `LARGEST_BATCH` numbers."""
    alike: dict[Any, Batch] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            key = parameter.shape, parameter.device, parameter.dtype
            alike[key].append((parameter, parameter.grad))
    for members in alike.values():
        first = members[0][0]
        largest = LARGEST_BATCH_ON_CPU if first.device.type == "cpu" else LARGEST_BATCH
        count = max(1, largest // first.numel())
        for start in range(0, len(members), count):
            yield members[start : start + count]
