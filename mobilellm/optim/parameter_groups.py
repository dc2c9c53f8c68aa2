"""Parameters by the role they play: what is decayed, and what is a matrix for Muon."""

from typing import Any

import torch
from torch import nn

from mobilellm.ranges import Range

ROLES = ("matrix", "embedding", "vector")
# What both optimizers accept. How large a rate may be is for the loss to tell: a run that diverges
# is stopped, and a probe that does is never chosen.
RATE = Range(above=0, remedy="2e-3 is a common choice")
WEIGHT_DECAY = Range(at_least=0, cap=100, remedy="0 turns it off")
BETA = Range(at_least=0, below=1)
EPS = Range(above=0, at_most=1)


def parameters_by_role(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Every trainable parameter once, under one of `ROLES`, in the model's own order.

    `embedding`: a table with one row per token (the input embedding, and the head where it is not
    tied). `vector`: fewer than two dimensions (norm weights, biases). `matrix`: all else.
    """
    roles: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            roles["vector"].append(parameter)
        elif name.split(".")[0] in ("embedding", "head"):
            roles["embedding"].append(parameter)
        else:
            roles["matrix"].append(parameter)
    return roles


def parameter_groups(
    model: nn.Module, *, weight_decay: float, decay_embeddings: bool = True
) -> list[dict[str, Any]]:
    """Optimizer groups with their weight decay: matrices yes, vectors no, embeddings by choice.

    Embeddings are decayed by default, as in the recipe MobileLLM was published with; the norms'
    weights are not, since decay would pull them to zero and not to the identity.

    Raises:
        ValueError: a model with nothing to train.
    """
    decays = {"matrix": weight_decay, "embedding": weight_decay if decay_embeddings else 0.0}
    groups = [
        {"params": parameters, "role": role, "weight_decay": decays.get(role, 0.0)}
        for role, parameters in parameters_by_role(model).items()
        if parameters
    ]
    if not groups:
        raise ValueError("the model has no parameter with requires_grad; unfreeze what is to train")
    return groups


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set each group's rate to its peak, `initial_lr`, times the schedule's `factor`.

    Returns:
        The rates by the names they are logged under: `learning_rate` is the configured one, which
        AdamW uses; Muon's is a multiple of it and stands beside it, as `learning_rate/muon`.
    """
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
        is_muon = group.get("algorithm") == "muon"
        rates["learning_rate/muon" if is_muon else "learning_rate"] = group["lr"]
    return rates
