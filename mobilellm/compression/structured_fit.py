"""Removal of heads and channels layer by layer, with a refit of the layers that read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from mobilellm.compression.algorithms.coupling import Coupling, unit_features
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.selection_of_units import best_columns
from mobilellm.compression.apply import dense_weight, frozen_view
from mobilellm.compression.calibration import Moments, check_tokens, gather_moments
from mobilellm.compression.couplings import couplings
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch
from mobilellm.compression.residual_stream import ResidualStream
from mobilellm.compression.structured_cut import pruned_model
from mobilellm.compression.structured_plan import Indices, StructuredPlan
from mobilellm.models import MobileLLM, ModelConfig

Choice = Callable[[str, Tensor, Tensor], Indices]
"""Maps the name of a coupling, the weight (out, in) of the layer that reads its units, and the
second moment (in, in) of that layer's inputs to the indices of the kept heads or channels."""


@dataclass(frozen=True)
class StructuredFit:
    """A model without the removed heads and channels."""

    plan: StructuredPlan
    """The kept heads and channels, as indices in the model before."""
    model: MobileLLM
    errors: dict[str, float]
    """Relative error of the outputs of each `o_proj` and `down_proj` from which inputs were
    removed, on its inputs before the removal."""


def remove_units(
    whole: MobileLLM,
    names: Sequence[str],
    choose: Choice,
    calibration: Sequence[Batch],
    *,
    refit: bool,
    propagated: bool,
) -> StructuredFit:
    """Remove heads and channels in the order in which the blocks run.

    Args:
        whole: the model with all blocks that are kept; is not changed.
        names: names of the couplings from which units are removed, `blocks.<i>.heads` or
            `blocks.<i>.hidden`.
        choose: chooses the kept heads or channels.
        calibration: batches of `input_ids`.
        refit: whether the layer that reads the units is refitted to its outputs before the removal.
        propagated: whether the inputs of each layer are those in the model from which the units of
            the layers before it are removed already; otherwise those in the whole model.

    Raises:
        ValueError: there are fewer calibration tokens than kept inputs of a refitted layer.
    """
    model = whole = frozen_view(whole)
    plan = StructuredPlan.whole(whole.config)
    kept = {"hidden": list(plan.channels), "heads": list(plan.heads)}
    errors: dict[str, float] = {}
    stream = ResidualStream(calibration) if ResidualStream.supports(whole) else None
    for coupling in log_progress(_in_order(whole.config, names), "layers cut"):
        _, block, kind = coupling.name.split(".")
        read = model if propagated else whole
        if stream is not None:
            stream.move_to(int(block), read)
        [name] = coupling.columns
        run = None if stream is None else stream.run
        moments = gather_moments(read, calibration, [name], run=run)[name]
        weight = dense_weight(whole, name)
        indices = choose(coupling.name, weight, moments.inputs)
        kept[kind][int(block)] = indices
        features = unit_features(torch.tensor(indices), coupling.unit).to(weight.device)
        model = _without(model, kind, int(block), indices)
        column = model.get_submodule(name)
        if refit:
            inner = moments.inputs[features][:, features]
            check_tokens(name, Moments(inner, moments.tokens))
            fitted = best_columns(weight, moments.inputs, features)
            column.weight = torch.nn.Parameter(fitted, requires_grad=False)
        wide = torch.zeros_like(weight).index_copy_(1, features, column.weight.detach())  # pyright: ignore
        errors[name] = Metric(moments.inputs).relative_error(weight, wide)
    plan = replace(plan, heads=tuple(kept["heads"]), channels=tuple(kept["hidden"]))
    return StructuredFit(plan, model, errors)


def _in_order(config: ModelConfig, names: Sequence[str]) -> list[Coupling]:
    """The couplings by the first application of their blocks, heads before channels."""
    found = {coupling.name: coupling for coupling in couplings(config)}
    blocks = dict.fromkeys(config.layer_order)
    ordered = chain.from_iterable((f"blocks.{b}.heads", f"blocks.{b}.hidden") for b in blocks)
    return [found[name] for name in ordered if name in set(names)]


def _without(model: MobileLLM, kind: str, block: int, indices: Indices) -> MobileLLM:
    """The model in which one block keeps only the given heads or channels."""
    plan = StructuredPlan.whole(model.config)
    field = "heads" if kind == "heads" else "channels"
    kept = list(getattr(plan, field))
    kept[block] = indices
    return pruned_model(model, replace(plan, **{field: tuple(kept)}), copy=False)
