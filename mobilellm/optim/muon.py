"""Muon for the matrices of the blocks and AdamW for the rest, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mobilellm.optim.adamw import can_fuse
from mobilellm.optim.batched_muon import BatchedMuon
from mobilellm.optim.parameter_groups import (
    BETA,
    EPS,
    RATE,
    WEIGHT_DECAY,
    parameter_groups,
    scaled_options,
)
from mobilellm.optim.parametrization import Parametrization, scale_of
from mobilellm.ranges import Range, checked

RATIO = Range(above=0)


class MuonWithAdamW(torch.optim.Optimizer):
    """An optimizer that uses Muon for the groups marked `muon` and AdamW for the others.

    Both share the groups and the state of this object, so that checkpoints, schedules and Lightning
    see a single optimizer.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, muon: dict[str, Any], adamw: dict[str, Any]
    ) -> None:
        """Create the two optimizers.

        Args:
            groups: parameter groups with `params` and `algorithm`, which is `muon` or `adamw`.
            muon: default options of `BatchedMuon` for its groups.
            adamw: default options of `torch.optim.AdamW` for its groups.
        """
        by_name = {
            name: [group for group in groups if group["algorithm"] == name]
            for name in ("muon", "adamw")
        }
        # Torch refuses an optimizer without parameters, and a model may lack either kind.
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if by_name["muon"]:
            self._parts["muon"] = BatchedMuon(by_name["muon"], **muon)
        if by_name["adamw"]:
            self._parts["adamw"] = torch.optim.AdamW(by_name["adamw"], **adamw)
        filled = [group for part in self._parts.values() for group in part.param_groups]
        super().__init__(filled, {})
        # Both parts can then refuse a step on the device, for which `found_inf` is passed on.
        self._step_supports_amp_scaling = all(
            getattr(part, "_step_supports_amp_scaling", False) for part in self._parts.values()
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both optimizers; `closure` is called once, before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, part in self._parts.items():
            # Loading a state dict replaces the groups and the state, so they are set in every step.
            part.param_groups = [g for g in self.param_groups if g["algorithm"] == name]
            part.state = self.state
            part.found_inf = getattr(self, "found_inf", None)  # pyright: ignore[reportAttributeAccessIssue]
            part.step()
        return loss


@checked(
    learning_rate=RATE, muon_learning_rate_ratio=RATIO, vector_learning_rate_ratio=RATIO,
    weight_decay=WEIGHT_DECAY, momentum=BETA, betas=BETA, eps=EPS,
)  # fmt: skip
def muon(
    model: nn.Module,
    *,
    learning_rate: float,
    muon_learning_rate_ratio: float = 1.0,
    vector_learning_rate_ratio: float = 1.0,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    adjust_learning_rate: str = "match_rms_adamw",
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    decay_embeddings: bool = True,
    parametrization: Parametrization | None = None,
) -> MuonWithAdamW:
    """Make Muon for the two-dimensional matrices of the blocks and AdamW for all other parameters.

    With `match_rms_adamw` an update of Muon has the same root mean square as one of AdamW at the
    same learning rate, so that a learning rate found for AdamW is a reasonable starting point.

    Args:
        model: the model, on the device on which it is trained.
        learning_rate: peak learning rate of AdamW.
        muon_learning_rate_ratio: learning rate of Muon as a multiple of `learning_rate`.
        vector_learning_rate_ratio: learning rate of norm weights and biases, which AdamW updates,
            as a multiple of `learning_rate`.
        weight_decay: decoupled weight decay.
        momentum: Nesterov momentum of Muon.
        adjust_learning_rate: how Muon's learning rate depends on the shape of a matrix:
            `match_rms_adamw` or `original`.
        betas: decay rates of AdamW's two moments.
        eps: added to the square root of AdamW's second moment.
        decay_embeddings: whether weight decay applies to the embedding and the head.
        parametrization: scales learning rate, weight decay and eps from its base shape to the
            shape of `model`, which then needs a `config`; None: they are the same for all shapes.

    Raises:
        ValueError: a number is out of range, or `adjust_learning_rate` is unknown.

    Source: Jordan et al. 2024, Muon; Liu et al. 2025, Muon is scalable for LLM training,
    arXiv:2502.16982, section 2.2.
    """
    if adjust_learning_rate not in ("match_rms_adamw", "original"):
        raise ValueError(
            f"adjust_learning_rate={adjust_learning_rate!r} is not known; "
            "use one of match_rms_adamw, original"
        )
    groups: list[dict[str, Any]] = []
    for group in parameter_groups(
        model,
        weight_decay=weight_decay,
        decay_embeddings=decay_embeddings,
        scale_of=scale_of(model, parametrization, muon=adjust_learning_rate),
    ):
        is_matrix = group["role"] == "matrix"
        flat = [p for p in group["params"] if is_matrix and p.ndim == 2]
        rest = [p for p in group["params"] if not (is_matrix and p.ndim == 2)]
        ratios = {
            "muon": muon_learning_rate_ratio,
            "adamw": vector_learning_rate_ratio if group["role"] == "vector" else 1.0,
        }
        for algorithm, parameters in (("muon", flat), ("adamw", rest)):
            if parameters:
                ratio = ratios[algorithm]
                part = {"params": parameters, "algorithm": algorithm, "lr": learning_rate * ratio}
                part |= scaled_options(group, learning_rate=learning_rate * ratio, eps=eps)
                if algorithm == "muon":
                    # Muon's own eps only keeps a gradient of zero from dividing by zero.
                    part.pop("eps", None)
                groups.append(group | part)
    return MuonWithAdamW(
        groups,
        muon={"momentum": momentum, "adjust_lr_fn": adjust_learning_rate},
        adamw={"betas": (betas[0], betas[1]), "eps": eps, "fused": can_fuse(model)},
    )
