"""Detect diverged steps on the device, so that the host need not wait for each loss."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mobilellm.training.divergence import DivergenceRule


class DeviceJudge:
    """Decides as `DivergenceRule` does, with the losses and the counters in tensors.

    All numbers are float64, as on the host, so that both decide equally.

    Args:
        rule: when a step is bad.
        action: `stop`, `skip` or `rollback`. Except for `skip`, all steps after a bad one are
            refused, because the host will end the run there.
        limit: with `skip`, the number of consecutive skipped steps after which all are refused.
        recent: losses of the most recent accepted steps, at most `rule.window`.
        skips: number of steps skipped since the last accepted one.
        device: where the losses are.
    """

    def __init__(
        self,
        rule: DivergenceRule,
        *,
        action: str,
        limit: int,
        recent: Sequence[float],
        skips: int,
        device: torch.device,
    ) -> None:
        """Copy the losses and the counters to the device."""
        self.rule, self.action, self.limit = rule, action, limit
        padding = [0.0] * (rule.window - len(recent))
        self.recent = torch.tensor([*padding, *recent], dtype=torch.float64, device=device)
        """The newest losses (window,), newest last."""
        self.count = torch.tensor(len(recent), device=device)
        """Number of accepted steps, at least those in `recent`."""
        self.skips = torch.tensor(skips, device=device)
        self.ended = torch.zeros((), dtype=torch.bool, device=device)
        """Whether all further steps are refused."""

    def refuses(self, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> Bool[Tensor, ""]:
        """Judge one step, and count it.

        Args:
            loss: loss of the whole step, in nats per token.
            norm: norm of the whole gradient.
        """
        loss = loss.double()
        bad = ~(loss.isfinite() & norm.isfinite())
        if self.rule.checks_spikes:
            is_spike = (self.count >= self.rule.window) & (loss > self._largest())
            bad = bad | is_spike
        refused = bad | self.ended
        if self.rule.checks_spikes:
            shifted = torch.cat([self.recent[1:], loss.view(1)])
            self.recent = torch.where(refused, self.recent, shifted)
            self.count = self.count + refused.logical_not()
        self.skips = torch.where(refused, self.skips + 1, 0)
        self.ended = self.ended | (self.skips > self.limit if self.action == "skip" else bad)
        return refused

    def _largest(self) -> Float[Tensor, ""]:
        """The largest loss that is no spike; equal to the host's to the last bit."""
        ordered, window = self.recent.sort().values, self.rule.window
        median = (ordered[(window - 1) // 2] + ordered[window // 2]) / 2
        limits = []
        if self.rule.spike_factor is not None:
            limits.append(median * self.rule.spike_factor)
        if self.rule.spike_nats is not None:
            limits.append(median + self.rule.spike_nats)
        return torch.stack(limits).amin()
