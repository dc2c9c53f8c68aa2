"""Parameter groups by role, which determines weight decay and whether Muon is used."""

from typing import Any

import torch
from torch import nn

from mobilellm.ranges import Range

ROLES = ("matrix", "embedding", "vector")
# Ranges of the options of both optimizers. The learning rate has no upper limit: a run that
# diverges is stopped, and the learning-rate probe never chooses a rate that diverges.
RATE = Range(above=0, remedy="2e-3 is a common choice")
WEIGHT_DECAY = Range(at_least=0, cap=100, remedy="0 turns it off")
BETA = Range(at_least=0, below=1)
EPS = Range(above=0, at_most=1)


def parameters_by_role(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by role (`ROLES`), each once, in the model's order.

    `embedding`: a matrix with one row per vocabulary entry (the embedding, and the head if it is
    not tied). `vector`: a parameter with fewer than two dimensions (norm weights, biases).
    `matrix`: any other parameter.
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
    """Parameter groups with weight decay for matrices, optionally embeddings, but not vectors.

    Weight decay applies to embeddings by default, as in MobileLLM's published training recipe. It
    does not apply to the weights of norms, because it would pull them to zero instead of one.

    Raises:
        ValueError: the model has no trainable parameter.
    """
    decays = {"matrix": weight_decay, "embedding": weight_decay if decay_embeddings else 0.0}
    groups = [
        {"params": parameters, "role": role, "weight_decay": decays.get(role, 0.0)}
        for role, parameters in parameters_by_role(model).items()
        if parameters
    ]
    if not groups:
        raise ValueError(
            "the model has no parameter with requires_grad; unfreeze the parameters to train"
        )
    return groups


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set each group's learning rate to its peak, `initial_lr`, times the schedule's `factor`.

    Returns:
        The learning rates by their names in the logs: `learning_rate` is that of AdamW, and
        `learning_rate/muon` that of Muon.
    """
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
        is_muon = group.get("algorithm") == "muon"
        rates["learning_rate/muon" if is_muon else "learning_rate"] = group["lr"]
    return rates
