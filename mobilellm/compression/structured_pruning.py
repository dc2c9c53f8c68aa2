"""Structured pruning, which keeps the most important blocks, heads and channels of a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mobilellm.compression.algorithms.coupling import Coupling, unit_features
from mobilellm.compression.algorithms.importance import (
    output_importance,
    taylor_importance,
)
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.selection_of_units import best_columns, most_important
from mobilellm.compression.apply import dense_weight, working_copy
from mobilellm.compression.block_importance import block_influences, losses_without_blocks
from mobilellm.compression.calibration import Moments, check_tokens, gather_moments
from mobilellm.compression.couplings import couplings
from mobilellm.compression.recipe import Batch, Compressed, Recipe
from mobilellm.compression.structured_cut import kept_inputs, pruned_model
from mobilellm.compression.structured_plan import Indices, StructuredPlan, check_dense_blocks
from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.models.config import check_choice
from mobilellm.models.sharing import is_closed_under_removal
from mobilellm.ranges import Range, check_fields

IMPORTANCES = ("taylor", "outputs")
BLOCK_IMPORTANCES = ("loss", "block_influence")
HEAD_UNITS = ("groups", "within_groups")


@dataclass(frozen=True, kw_only=True)
class StructuredPruning(Recipe[StructuredPlan]):
    """Removal of the least important blocks, heads and channels; the result is a dense model.

    Blocks are removed first. Then the same share of heads and channels is removed from each of the
    remaining blocks, by their importance in the model without the removed blocks. The importance of
    a shared block and of its units includes all its applications.

    Raises:
        ValueError: no share is given, a share is outside (0, 1], or a choice is unknown.

    Source: Xia et al. 2024, Sheared LLaMA, arXiv:2310.06694 (removed structures); Muralidharan et
        al.
    2024, Minitron, arXiv:2407.14679 (one-shot selection by importance).
    """

    keep_channels: float | None = None
    """Share of each block's feed-forward channels that is kept; None: all."""
    keep_heads: float | None = None
    """Share of each block's heads that is kept; None: all."""
    keep_blocks: float | None = None
    """Share of the stored blocks that is kept; None: all."""
    importance: str = "taylor"
    """Importance of channels and heads. `taylor`: gradient of the loss with respect to a factor of
    the unit; `outputs`: mean square of the unit's contribution to the output of its layer."""
    block_importance: str = "loss"
    """Importance of blocks. `loss`: loss of the model without the block; `block_influence`:
    1 − cos(input, output) of the block, from a single forward pass."""
    head_unit: str = "groups"
    """Unit of removed heads. `groups`: a key-value head with all its query heads; `within_groups`:
    query heads, the same number from each group, while all key-value heads are kept."""
    reconstruct: bool = True
    """Whether `o_proj` and `down_proj` are refitted to the outputs of the layers before pruning."""

    def __post_init__(self) -> None:
        """Check the choices."""
        share = Range(above=0, at_most=1, remedy="the share that is kept")
        check_fields(self, keep_channels=share, keep_heads=share, keep_blocks=share)
        check_choice("importance", self.importance, IMPORTANCES)
        check_choice("block_importance", self.block_importance, BLOCK_IMPORTANCES)
        check_choice("head_unit", self.head_unit, HEAD_UNITS)
        shares = {n: getattr(self, n) for n in ("keep_channels", "keep_heads", "keep_blocks")}
        if all(share is None for share in shares.values()):
            raise ValueError(f"there is nothing to prune; give at least one of {', '.join(shares)}")

    def check(self, model: MobileLLM) -> None:
        """Check that the recipe can be applied to `model`, before any data is read.

        Raises:
            ValueError: a block contains compressed matrices, a share keeps nothing or everything,
                or the sharing scheme would run the remaining blocks in another order.
        """
        self.check_config(model.config)

    def check_config(self, config: ModelConfig) -> None:
        """Check that the recipe can be applied to a model with this configuration.

        Raises:
            ValueError: as `check`.
        """
        check_dense_blocks(config)
        (count,) = _counts("keep_blocks", self.keep_blocks, [config.num_blocks])
        scheme, repeats = config.layer_sharing, config.block_repeats
        if not is_closed_under_removal(scheme, config.num_blocks, repeats, count):
            raise ValueError(
                f"keep_blocks={self.keep_blocks} removes blocks, but layer_sharing={scheme!r} "
                "would run the remaining blocks in another order than before; remove keep_blocks, "
                "and use keep_channels or keep_heads"
            )
        self._kept_counts(config)

    def configs_after(self, config: ModelConfig) -> list[ModelConfig]:
        """The architectures that may result, depending on which blocks are kept.

        There are several only if the blocks of `config` have different sizes. If n blocks are
        removed, one of n + 1 blocks is kept at each position. The result contains n + 1
        configurations, in which each of these blocks occurs once at its position.

        Raises:
            ValueError: as `check`.
        """
        self.check_config(config)
        (count,) = _counts("keep_blocks", self.keep_blocks, [config.num_blocks])
        starts = range(config.num_blocks - count + 1)
        if len(set(config.block_shapes)) == 1:
            starts = starts[:1]
        return [self._first_units(config, range(start, start + count)) for start in starts]

    def _first_units(self, config: ModelConfig, blocks: Sequence[int]) -> ModelConfig:
        """The architecture with the given blocks and the first units of each."""
        plan = StructuredPlan.whole(config, blocks)
        smaller = plan.config_after(config)
        cut = self._couplings(smaller)
        kept = {"hidden": list(plan.channels), "heads": list(plan.heads)}
        for name, count in self._kept_counts(smaller).items():
            coupling = cut[name]
            size = coupling.group_size
            units = [u for u in range(coupling.num_units) if u % size < count]
            self._keep(kept, coupling, torch.tensor(units), config)
        return self._planned(plan, kept).config_after(config)

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> StructuredPlan:
        """Choose the blocks to keep, and the heads and channels of these blocks.

        Raises:
            ValueError: as `check`, or the calibration set is empty.
        """
        self.check(model)
        model = working_copy(model)
        plan = StructuredPlan.whole(model.config, self._kept_blocks(model, calibration))
        smaller = pruned_model(model, plan)
        cut, counts = self._couplings(smaller.config), self._kept_counts(smaller.config)
        wanted = [coupling for coupling in cut.values() if coupling.name in counts]
        scores = self._importance(smaller, wanted, calibration) if wanted else {}
        kept = {"hidden": list(plan.channels), "heads": list(plan.heads)}
        for name, importance in scores.items():
            units = most_important(importance, counts[name], cut[name].groups)
            self._keep(kept, cut[name], units, model.config)
        return self._planned(plan, kept)

    def apply(
        self, model: MobileLLM, plan: StructuredPlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Create the smaller model.

        Returns:
            The model, and the relative error of the outputs of each `o_proj` and `down_proj` in a
            pruned layer on the calibration text, by its name in the new model. The inputs of the
            layer are those of the model before heads and channels are removed.

        Raises:
            ValueError: the plan belongs to another model, or there are too few calibration tokens.
        """
        whole = pruned_model(model, StructuredPlan.whole(model.config, plan.blocks))
        pruned = pruned_model(model, plan)
        kept = kept_inputs(whole.config, plan)
        moments = gather_moments(whole, calibration, list(kept)) if kept else {}
        errors = {}
        for name, inputs in kept.items():
            weight, moment = dense_weight(whole, name), moments[name].inputs
            features = inputs.to(weight.device)
            target = pruned.get_submodule(name).weight
            if self.reconstruct:
                inner = moment[features][:, features]
                check_tokens(name, Moments(inner, moments[name].tokens))
                with torch.no_grad():
                    target.copy_(best_columns(weight, moment, features))  # pyright: ignore
            wide = torch.zeros_like(weight).index_copy_(1, features, target.detach())  # pyright: ignore
            errors[name] = Metric(moment).relative_error(weight, wide)
        return Compressed(pruned, errors)

    def plan_from_dict(self, values: Mapping[str, Any]) -> StructuredPlan:
        """The inverse of `StructuredPlan.to_dict`."""
        return StructuredPlan.from_dict(values)

    @staticmethod
    def _keep(
        kept: dict[str, list[Indices]], coupling: Coupling, units: Tensor, config: ModelConfig
    ) -> None:
        """Write the kept units of one block to `kept`."""
        _, block, kind = coupling.name.split(".")
        if kind == "heads":  # A unit may be a group of heads.
            units = unit_features(units, coupling.unit // config.head_dim)  # pyright: ignore
        kept[kind][int(block)] = tuple(units.tolist())

    @staticmethod
    def _planned(plan: StructuredPlan, kept: dict[str, list[Indices]]) -> StructuredPlan:
        return replace(plan, heads=tuple(kept["heads"]), channels=tuple(kept["hidden"]))

    def _couplings(self, config: ModelConfig) -> dict[str, Coupling]:
        """Couplings whose units may be removed, by name; `head_unit` sets the unit of heads."""
        found = {coupling.name: coupling for coupling in couplings(config)}
        if self.head_unit == "within_groups":
            return found
        return {
            name: replace(c, num_units=c.groups, unit=c.unit * c.group_size, groups=1)
            if name.endswith(".heads")
            else c
            for name, c in found.items()
        }

    def _kept_counts(self, config: ModelConfig) -> dict[str, int]:
        """Number of units to keep in each group, by coupling, for all shares that are given."""
        counts: dict[str, int] = {}
        shares = {"keep_channels": self.keep_channels, "keep_heads": self.keep_heads}
        for (field, share), kind in zip(shares.items(), ("hidden", "heads"), strict=True):
            chosen = [c for c in self._couplings(config).values() if c.name.endswith(f".{kind}")]
            sizes = [coupling.group_size for coupling in chosen]
            if share is not None:
                found = _counts(field, share, sizes)
                counts |= dict(zip((c.name for c in chosen), found, strict=True))
        return counts

    def _importance(
        self, model: MobileLLM, chosen: Sequence[Coupling], calibration: Sequence[Batch]
    ) -> dict[str, Tensor]:
        """Importance of the units of each coupling, by its name."""
        if self.importance == "taylor":
            return taylor_importance(
                model, chosen, calibration, lambda batch: loss_sum(model, batch)
            )
        names = [coupling.columns[0] for coupling in chosen]
        moments = gather_moments(model, calibration, names)
        return {
            c.name: output_importance(dense_weight(model, name), moments[name].inputs, c.unit)
            for c, name in zip(chosen, names, strict=True)
        }

    def _kept_blocks(self, model: MobileLLM, calibration: Sequence[Batch]) -> list[int]:
        num_blocks = model.config.num_blocks
        (count,) = _counts("keep_blocks", self.keep_blocks, [num_blocks])
        if count == num_blocks:
            return list(range(num_blocks))
        measure = losses_without_blocks if self.block_importance == "loss" else block_influences
        return most_important(torch.tensor(measure(model, calibration)), count).tolist()


def _counts(name: str, share: float | None, sizes: Sequence[int]) -> list[int]:
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
