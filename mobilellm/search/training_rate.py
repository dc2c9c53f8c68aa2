"""How fast a machine trains a shape, from the speed of finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilellm.accounting import flops_per_token
from mobilellm.models import ModelConfig


@dataclass(frozen=True)
class TrainingRate:
    """Seconds per training token: a time for each layer that runs, and one for each FLOP.

    The seconds per token are `fixed + per_layer x layers + per_flop x training FLOPs per token`.
    Since small models hardly show what a FLOP costs, no shape is taken to do more FLOPs per second
    than the fastest run did.
    """

    fixed: float
    per_layer: float
    per_flop: float
    most_flops_per_second: float
    """Of the fastest run."""

    def seconds_per_token(self, config: ModelConfig, sequence_length: int) -> float:
        """The expected time of one token."""
        flops = flops_per_token(config, sequence_length).training
        expected = self.fixed + self.per_layer * config.num_layers + self.per_flop * flops
        return max(expected, flops / self.most_flops_per_second)


def fit_training_rate(
    layers: Sequence[float], flops: Sequence[float], seconds: Sequence[float]
) -> TrainingRate:
    """Fit the rate of a machine to measured runs, by squared relative errors.

    Args:
        layers: layers that run, of each run.
        flops: training FLOPs per token.
        seconds: measured seconds per token.
    """
    from scipy.optimize import nnls  # slow to import, and only needed here

    measured = np.array(seconds, float)
    design = np.stack([np.ones_like(measured), np.array(layers, float), np.array(flops, float)], 1)
    scale = design.mean(0)
    solution, _ = nnls(design / scale / measured[:, None], np.ones_like(measured))
    fixed, per_layer, per_flop = (float(value) for value in solution / scale)
    return TrainingRate(fixed, per_layer, per_flop, float((design[:, 2] / measured).max()))
