"""AdamW whose two moments are stored in 8 bits, by torchao.

Source: Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, arXiv:2110.02861.
"""

from typing import Any

import torch
from torch import nn

from mobilellm.optim.adamw import adamw_groups
from mobilellm.optim.parameter_groups import BETA, EPS, RATE, WEIGHT_DECAY
from mobilellm.optim.parametrization import Parametrization
from mobilellm.ranges import checked


@checked(learning_rate=RATE, weight_decay=WEIGHT_DECAY, betas=BETA, eps=EPS)
def adamw8bit(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    decay_embeddings: bool = True,
    parametrization: Parametrization | None = None,
) -> torch.optim.Optimizer:
    """Make AdamW for `model` that keeps about 2 instead of 8 bytes per parameter.

    Blocks of 256 numbers have a scale. Parameters with fewer than 4,096 numbers, or a number that
    256 does not divide, keep moments in floats. The update is compiled for each shape of a
    parameter in the first step, which takes some seconds and on CPUs needs a C++ compiler.

    Args:
        model: the model, on the device on which it is trained.
        learning_rate: as for `adamw`, like all others.
        weight_decay: see `adamw`.
        betas: see `adamw`.
        eps: see `adamw`.
        decay_embeddings: see `adamw`.
        parametrization: see `adamw`.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: a number is out of range.
    """
    return _torchao()(
        adamw_groups(
            model,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            eps=eps,
            decay_embeddings=decay_embeddings,
            parametrization=parametrization,
        ),
        lr=learning_rate,
        betas=(betas[0], betas[1]),
        eps=eps,
    )


def _torchao() -> Any:
    try:
        from torchao.optim import AdamW8bit
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "optimizer=adamw8bit needs torchao; install it with pip install 'mobilellm[adamw8bit]'"
        ) from None
    return AdamW8bit
