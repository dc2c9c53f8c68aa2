"""Muon for the matrices of the blocks and AdamW for the rest, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mobilellm.optim.adamw import can_fuse
from mobilellm.optim.parameter_groups import BETA, EPS, RATE, WEIGHT_DECAY, parameter_groups
from mobilellm.ranges import Range, checked


class MuonWithAdamW(torch.optim.Optimizer):
    """Runs torch's Muon on the groups marked `muon` and torch's AdamW on the others.

    Both work on this object's own groups and state, so that checkpoints, schedules and Lightning
    see a single optimizer.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, muon: dict[str, Any], adamw: dict[str, Any]
    ) -> None:
        """Take over `groups`.

        Args:
            groups: with `params` and `algorithm`, which is `muon` or `adamw`.
            muon: options of `torch.optim.Muon` that the groups leave open.
            adamw: options of `torch.optim.AdamW` that the groups leave open.
        """
        by_name = {
            name: [group for group in groups if group["algorithm"] == name]
            for name in ("muon", "adamw")
        }
        # An optimizer without parameters cannot be built: a model may lack either kind.
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if by_name["muon"]:
            self._parts["muon"] = torch.optim.Muon(by_name["muon"], **muon)
        if by_name["adamw"]:
            self._parts["adamw"] = torch.optim.AdamW(by_name["adamw"], **adamw)
        filled = [group for part in self._parts.values() for group in part.param_groups]
        super().__init__(filled, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both; `closure` is called first, once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, part in self._parts.items():
            # Loading a state dict replaces groups and state, hence the link at every step.
            part.param_groups = [g for g in self.param_groups if g["algorithm"] == name]
            part.state = self.state
            part.step()
        return loss


@checked(
    learning_rate=RATE, muon_learning_rate_ratio=Range(above=0),
    weight_decay=WEIGHT_DECAY, momentum=BETA, betas=BETA, eps=EPS,
)  # fmt: skip
def muon(
    model: nn.Module,
    *,
    learning_rate: float,
    muon_learning_rate_ratio: float = 1.0,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    adjust_learning_rate: str = "match_rms_adamw",
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    decay_embeddings: bool = True,
) -> MuonWithAdamW:
    """Muon for the two-dimensional matrices of the blocks, AdamW for embeddings and vectors.

    With `match_rms_adamw` an update of Muon is as large as one of AdamW at the same rate, so that
    `learning_rate` scales both and a rate found for AdamW is a fair start.

    Args:
        model: on the device it trains on.
        learning_rate: peak, of AdamW.
        muon_learning_rate_ratio: Muon's rate as a multiple of it.
        weight_decay: decoupled, per unit of learning rate.
        momentum: Muon's, with Nesterov's correction.
        adjust_learning_rate: how Muon's rate follows a matrix's shape: `match_rms_adamw` or
            `original`.
        betas: AdamW's.
        eps: AdamW's.
        decay_embeddings: whether the token table and the head are decayed.

    Raises:
        ValueError: a number out of range, an unknown `adjust_learning_rate`.

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
        model, weight_decay=weight_decay, decay_embeddings=decay_embeddings
    ):
        is_matrix = group["role"] == "matrix"
        flat = [p for p in group["params"] if is_matrix and p.ndim == 2]
        rest = [p for p in group["params"] if not (is_matrix and p.ndim == 2)]
        rates = {"muon": learning_rate * muon_learning_rate_ratio, "adamw": learning_rate}
        for algorithm, parameters in (("muon", flat), ("adamw", rest)):
            if parameters:
                part = {"params": parameters, "algorithm": algorithm, "lr": rates[algorithm]}
                groups.append(group | part)
    return MuonWithAdamW(
        groups,
        muon={"momentum": momentum, "adjust_lr_fn": adjust_learning_rate},
        adamw={"betas": (betas[0], betas[1]), "eps": eps, "fused": can_fuse(model)},
    )
