"""Tokens per second, and the utilisation of the devices."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback

from mobilellm.accounting import flops_per_token
from mobilellm.training.device_rate import matmul_rate


class ThroughputCallback(Callback):
    """Logs `tokens_per_second` and `model_flops_utilization`.

    Utilisation is the rate of the model's training FLOPs (counted without recomputation), divided
    by the rate of matrix products, which is measured at the start. The time excludes validation and
    the first step, which compiles and allocates.
    """

    watches_only = True

    def __init__(self) -> None:
        """Start without measurements."""
        self.matmul_flops_per_second: float | None = None
        """FLOP/s of a matrix product on one device, in the precision of the model's products."""
        self.tokens_per_second: float | None = None
        """Tokens per second over all steps of this process except its first."""
        self.model_flops_utilization: float | None = None
        """Utilisation over the same steps."""
        self._flops_per_token = 0
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the rate of the device."""
        dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
        device = trainer.strategy.root_device
        self.matmul_flops_per_second = matmul_rate(device, dtype)
        pl_module.latest_metrics["matmul_flops_per_second"] = self.matmul_flops_per_second
        # The callback may be used in several fits, one per stage of compression.
        self.tokens_per_second = self.model_flops_utilization = None
        self._first = self._last = None
        length = trainer.datamodule.sequence_length
        self._flops_per_token = flops_per_token(pl_module.model.config, length).training

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log the rates since the last logged step, if this step is logged."""
        if not pl_module.is_logged():
            return
        now = (time.monotonic() - pl_module.validation_seconds, pl_module.tokens)
        if self._first is None or self._last is None:
            self._first = self._last = now
            return
        recent, overall = _rate(self._last, now), _rate(self._first, now)
        self._last = now
        self.tokens_per_second = overall
        self.model_flops_utilization = self._utilization(overall, trainer.world_size)
        pl_module.write_metrics(
            {
                "tokens_per_second": recent,
                "model_flops_utilization": self._utilization(recent, trainer.world_size),
            }
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the rates of the whole run the module's latest metrics."""
        if self.tokens_per_second is not None and self.model_flops_utilization is not None:
            pl_module.latest_metrics["tokens_per_second"] = self.tokens_per_second
            pl_module.latest_metrics["model_flops_utilization"] = self.model_flops_utilization

    def _utilization(self, tokens_per_second: float, devices: int) -> float:
        reachable = (self.matmul_flops_per_second or float("nan")) * devices
        return tokens_per_second * self._flops_per_token / reachable


def _rate(start: tuple[float, int], end: tuple[float, int]) -> float:
    """Tokens per second between two moments (seconds, tokens)."""
    return (end[1] - start[1]) / max(end[0] - start[0], 1e-9)
