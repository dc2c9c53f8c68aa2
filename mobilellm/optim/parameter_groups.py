"""Parameter groups by role, which determines weight decay and whether Muon is used."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mobilellm.optim.scale import UNSCALED, Scale, ScaleOf
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
    for role, _, parameter in _named_roles(model):
        roles[role].append(parameter)
    return roles


def _named_roles(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Role, name and parameter of all trainable parameters."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = name.split(".")[0] in ("embedding", "head")
        role = "vector" if parameter.ndim < 2 else "embedding" if is_table else "matrix"
        yield role, name, parameter


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    decay_embeddings: bool = True,
    scale_of: ScaleOf | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for matrices, optionally embeddings, but not vectors.

    Weight decay applies to embeddings by default, as in MobileLLM's published training recipe. It
    does not apply to the weights of norms, because it would pull them to zero instead of one.

    Args:
        model: whose parameters are grouped.
        weight_decay: of matrices.
        decay_embeddings: whether weight decay applies to embeddings.
        scale_of: the scale of each parameter. The parameters of a role are then divided into a
            group for each scale; groups whose scale is not 1 have it as `scale`, and the weight
            decay is already multiplied by it.

    Raises:
        ValueError: the model has no trainable parameter.
    """
    decays = {"matrix": weight_decay, "embedding": weight_decay if decay_embeddings else 0.0}
    members: dict[str, dict[Scale, list[nn.Parameter]]] = {role: {} for role in ROLES}
    for role, name, parameter in _named_roles(model):
        scale = UNSCALED if scale_of is None else scale_of(name, parameter)
        members[role].setdefault(scale, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for role, by_scale in members.items():
        for scale, parameters in by_scale.items():
            decay = decays.get(role, 0.0) * scale.weight_decay
            group = {"params": parameters, "role": role, "weight_decay": decay}
            # A plain tuple: it is part of checkpoints.
            groups.append(group if scale == UNSCALED else group | {"scale": tuple(scale)})
    if not groups:
        raise ValueError(
            "the model has no parameter with requires_grad; unfreeze the parameters to train"
        )
    return groups


def scaled_options(group: dict[str, Any], *, learning_rate: float, eps: float) -> dict[str, Any]:
    """Learning rate and eps of a scaled group; nothing for a group without `scale`.

    Args:
        group: as `parameter_groups` returns it.
        learning_rate: peak of the whole optimizer.
        eps: of the whole optimizer.
    """
    if "scale" not in group:
        return {}
    scale = Scale(*group["scale"])
    return {"lr": learning_rate * scale.learning_rate, "eps": eps * scale.eps}


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set each group's learning rate to its peak, `initial_lr`, times the schedule's `factor`.

    Returns:
        The learning rates by their names in the logs: `learning_rate` is that of AdamW, and
        `learning_rate/muon` that of Muon; those of the base shape if groups are scaled. Vectors,
        which may have a ratio of their own, do not count if there are other parameters.
    """
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], torch.Tensor):
            # A compiled update reads it from there.
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        is_muon = group.get("algorithm") == "muon"
        scale = Scale(*group.get("scale", UNSCALED))
        name = "learning_rate/muon" if is_muon else "learning_rate"
        # Groups of vectors are the last ones.
        rates.setdefault(name, rate / scale.learning_rate)
    return rates
