"""A small recipe of the tests' own: a truncated SVD of each layer.

`KILL_IN=apply2` in the environment ends the process in the work on the second stage (of two layers
each), `after2` between that stage's compression and its first step.
"""

import os
import signal
from dataclasses import dataclass

from lightning.pytorch import Callback

from mobilellm.compression.algorithms.kronecker import nearest_kronecker
from mobilellm.compression.apply import dense_weight, with_layers
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.recipe import Compressed, LayerwiseRecipe
from mobilellm.compression.selection import select_layers
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.part_shape import low_rank_shape


def die_in(moment, stage):
    if os.environ.get("KILL_IN") == f"{moment}{stage}":
        os.kill(os.getpid(), signal.SIGKILL)


class DieAfter(Callback):
    """Not there any more when training starts."""

    def on_train_start(self, trainer, pl_module):
        die_in("after", len(pl_module.model.config.compressed_layers) // 2)


@dataclass(frozen=True, kw_only=True)
class LowRank(LayerwiseRecipe):
    layers: tuple = ("blocks.*.feed_forward.*",)
    rank: int = 3

    def check(self, model):
        self.plan(model, [])

    def plan(self, model, calibration):
        if calibration:
            die_in("plan", 1)
        sizes = model.config.matrix_sizes
        return LayerwisePlan(
            layers=tuple(
                LayerPlan(
                    name=name, size=sizes[name],
                    shape=FactorizedShape(parts=(low_rank_shape(*sizes[name], self.rank),)),
                    expected_error=1.0 / (1 + number),
                )
                for number, name in enumerate(select_layers(model.config, self.layers))
            )
        )  # fmt: skip

    def apply(self, model, plan, calibration):
        layers, errors = {}, {}
        for layer in plan.layers:
            weight, (rows, columns) = dense_weight(model, layer.name), layer.size
            factors = nearest_kronecker(weight, (rows, 1), (1, columns), self.rank)
            layers[layer.name] = FactorizedLinear([KroneckerLinear(*factors)])
            rest = weight - layers[layer.name].materialize().detach()
            errors[layer.name] = float(rest.norm() / weight.norm())
        die_in("apply", len(model.config.compressed_layers) // 2 + 1)
        return Compressed(with_layers(model, layers), errors)
