"""Which heads and channels of each block structured pruning keeps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mobilellm.compression.algorithms.coupling import Coupling, unit_features
from mobilellm.compression.algorithms.elimination import surviving_units
from mobilellm.compression.algorithms.importance import output_importance, taylor_importance
from mobilellm.compression.algorithms.selection_of_units import most_important
from mobilellm.compression.couplings import selected_couplings
from mobilellm.compression.recipe import Batch
from mobilellm.compression.structured_plan import Indices, StructuredPlan
from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.attention_mask import attention_mask_of


@dataclass(frozen=True, kw_only=True)
class KeptUnits:
    """Numbers of heads and channels that are kept in a model, and the choice of them.

    The fields other than `config` are those of `StructuredPruning`.
    """

    config: ModelConfig
    layers: Sequence[str]
    keep_channels: float | None
    keep_heads: float | None
    head_unit: str
    importance: str

    @cached_property
    def couplings(self) -> dict[str, Coupling]:
        """Couplings from which units are removed, by name; `head_unit` sets the unit of heads.

        Raises:
            ValueError: a pattern of `layers` matches nothing or a part of a layer, or a share is
                given for layers that no pattern selects.
        """
        shares = {"hidden": self.keep_channels, "heads": self.keep_heads}
        fields = {"hidden": "keep_channels", "heads": "keep_heads"}
        selected = selected_couplings(self.config, self.layers)
        found: dict[str, Coupling] = {}
        for kind, share in shares.items():
            own = [coupling for coupling in selected if coupling.name.endswith(f".{kind}")]
            if share is not None and not own:
                wanted = "feed_forward" if kind == "hidden" else "attention"
                raise ValueError(
                    f"{fields[kind]}={share} has no effect, because layers={list(self.layers)} "
                    f"selects no {wanted} layer; add blocks.*.{wanted}.*, or remove {fields[kind]}"
                )
            found |= {c.name: self._by_head_unit(c) for c in own if share is not None}
        return found

    def _by_head_unit(self, coupling: Coupling) -> Coupling:
        if self.head_unit == "within_groups" or coupling.name.endswith(".hidden"):
            return coupling
        unit = coupling.unit * coupling.group_size
        return replace(coupling, num_units=coupling.groups, unit=unit, groups=1)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of units to keep in each group, by coupling.

        Raises:
            ValueError: as `couplings`, or a share keeps nothing or everything.
        """
        counts: dict[str, int] = {}
        shares = {"keep_channels": self.keep_channels, "keep_heads": self.keep_heads}
        for (field, share), kind in zip(shares.items(), ("hidden", "heads"), strict=True):
            chosen = [c for c in self.couplings.values() if c.name.endswith(f".{kind}")]
            found = kept_counts(field, share, [coupling.group_size for coupling in chosen])
            counts |= dict(zip((c.name for c in chosen), found, strict=True))
        return counts

    def first(self) -> StructuredPlan:
        """A plan that keeps the first units of each group."""
        counts = self.counts
        units = {
            name: torch.tensor(
                [u for u in range(coupling.num_units) if u % coupling.group_size < counts[name]]
            )
            for name, coupling in self.couplings.items()
        }
        return self._plan(units)

    def choose(self, name: str, weight: Tensor, moment: Tensor) -> Indices:
        """The heads or channels to keep, by the inputs of the layer that reads them.

        Args:
            name: of the coupling.
            weight: of the layer (out, in).
            moment: second moment of its inputs (in, in).
        """
        coupling, count = self.couplings[name], self.counts[name]
        if self.importance == "elimination":
            units = surviving_units(weight, moment, count, coupling.unit, coupling.groups)
        else:
            importance = output_importance(weight, moment, coupling.unit)
            units = most_important(importance, count, coupling.groups)
        return self._indices(coupling, units)

    def by_taylor(self, model: MobileLLM, calibration: Sequence[Batch]) -> StructuredPlan:
        """A plan by the gradients of the loss, which are measured for all layers at once."""
        scores = taylor_importance(
            model, list(self.couplings.values()), calibration, lambda batch: loss_sum(model, batch)
        )
        return self._plan({
            name: most_important(score, self.counts[name], self.couplings[name].groups)
            for name, score in scores.items()
        })  # fmt: skip

    def _plan(self, units: dict[str, Tensor]) -> StructuredPlan:
        plan = StructuredPlan.whole(self.config)
        kept = {"hidden": list(plan.channels), "heads": list(plan.heads)}
        for name, chosen in units.items():
            _, block, kind = name.split(".")
            kept[kind][int(block)] = self._indices(self.couplings[name], chosen)
        return replace(plan, heads=tuple(kept["heads"]), channels=tuple(kept["hidden"]))

    def _indices(self, coupling: Coupling, units: Tensor) -> Indices:
        """Indices of the channels or heads of the given units; a unit may be a group of heads."""
        if coupling.name.endswith(".heads"):
            units = unit_features(units, coupling.unit // self.config.head_dim)  # pyright: ignore
        return tuple(units.tolist())


def kept_counts(name: str, share: float | None, sizes: Sequence[int]) -> list[int]:
    """Number of units to keep for each number of units, rounded to the nearest integer.

    Raises:
        ValueError: one of the results is 0, or nothing would be removed.
    """
    if share is None or share == 1:
        return list(sizes)
    counts = [math.floor(share * size + 0.5) for size in sizes]
    for count, size in zip(counts, sizes, strict=True):
        if count < 1:
            raise ValueError(f"{name}={share} of {size} keeps none; give at least {1 / size:.3g}")
    if counts == list(sizes):
        size = max(sizes)
        remedy = f"give at most {(size - 1) / size:.3g}" if size > 1 else f"remove {name}"
        if name == "keep_heads" and size == 1:
            remedy += ", or change head_unit"
        raise ValueError(f"{name}={share} of {size} keeps all; {remedy}")
    return counts


def loss_sum(model: MobileLLM, batch: Batch) -> Tensor:
    """Cross entropy of all tokens of a batch, in nats, with a gradient."""
    device = next(model.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items()}
    output = model(inputs["input_ids"], attention_mask=attention_mask_of(inputs), logits=False)
    return chunked_cross_entropy(output.hidden, model.unembed, inputs["labels"])
