"""Creation of the smaller model that a structured plan describes."""

import torch
from torch import Tensor

from mobilellm.checkpoint import model_from_state
from mobilellm.compression.algorithms.coupling import Coupling
from mobilellm.compression.algorithms.selection_of_units import select_units
from mobilellm.compression.couplings import couplings
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.models import MobileLLM


def pruned_model(model: MobileLLM, plan: StructuredPlan, *, copy: bool = True) -> MobileLLM:
    """Create the smaller model with the kept weights, which are not adjusted.

    Args:
        model: is not changed.
        plan: the structured plan.
        copy: whether the weights are copied; otherwise matrices that are not cut are shared with
            `model`.

    Raises:
        ValueError: the plan belongs to another model, or a block contains compressed matrices.
    """
    config = plan.config_after(model.config)
    carriers = {coupling.name: coupling for coupling in couplings(model.config)}
    cut: dict[str, Tensor] = {}
    kept = zip(
        plan.blocks, plan.heads, plan.key_value_heads(model.config), plan.channels, strict=True
    )
    for block, heads, key_values, channels in kept:
        of_heads = carriers[f"blocks.{block}.heads"]
        for coupling, units in (
            (of_heads, heads),
            (_key_values(of_heads, block), key_values),
            (carriers[f"blocks.{block}.hidden"], channels),
        ):
            cut |= select_units(model, coupling, torch.tensor(units))
    places = {f"blocks.{old}": f"blocks.{new}" for new, old in enumerate(plan.blocks)}
    state = {}
    for name, tensor in model.state_dict().items():
        block = ".".join(name.split(".")[:2])
        if name.startswith("blocks.") and block not in places:
            continue
        stays: Tensor = cut.get(name.removesuffix(".weight"), tensor)  # pyright: ignore
        stays = stays.detach().clone() if copy else stays.detach()
        state[places.get(block, block) + name.removeprefix(block)] = stays
    return model_from_state(config, state, "the pruned model").train(model.training)


def _key_values(heads: Coupling, block: int) -> Coupling:
    """The coupling of key-value heads, which are outputs of the key and value projections."""
    return Coupling(
        name=f"blocks.{block}.key_values",
        rows=(f"blocks.{block}.attention.k_proj", f"blocks.{block}.attention.v_proj"),
        columns=(),
        num_units=heads.groups,
        unit=heads.unit,
    )
