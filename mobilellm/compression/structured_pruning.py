"""Structured pruning, which keeps the most important blocks, heads and channels of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from mobilellm.compression.algorithms.selection_of_units import most_important
from mobilellm.compression.apply import working_copy
from mobilellm.compression.block_importance import block_influences, losses_without_blocks
from mobilellm.compression.couplings import couplings
from mobilellm.compression.kept_units import KeptUnits, kept_counts
from mobilellm.compression.recipe import Batch, Compressed, Recipe
from mobilellm.compression.reconstruction import Refinements, Settings
from mobilellm.compression.structured_cut import pruned_model
from mobilellm.compression.structured_fit import Choice, StructuredFit, remove_units
from mobilellm.compression.structured_plan import StructuredPlan, check_dense_blocks
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import check_choice
from mobilellm.models.sharing import is_closed_under_removal
from mobilellm.ranges import Range, check_fields

FITS = ("weights", "outputs", "propagated", "reconstructed")
IMPORTANCES = ("elimination", "outputs", "taylor")
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
    al. 2024, Minitron, arXiv:2407.14679 (one-shot selection by importance); Lin et al. 2024,
    MoDeGPT, arXiv:2408.09632 (removal and refit in closed form).
    """

    layers: Sequence[str] = ("blocks.*",)
    """Patterns of the names in `ModelConfig.matrix_sizes`. Channels are removed from the
    feed-forward layers, and heads from the attention layers, all of whose matrices match."""

    keep_channels: float | None = None
    """Share of each block's feed-forward channels that is kept; None: all."""
    keep_heads: float | None = None
    """Share of each block's heads that is kept; None: all."""
    keep_blocks: float | None = None
    """Share of the stored blocks that is kept; None: all."""
    importance: str = "elimination"
    """Importance of channels and heads. `elimination`: increase of the layer's squared output error
    if the unit is removed and the others are refitted, units being removed one by one; `outputs`:
    mean square of the unit's contribution to the output of its layer; `taylor`: gradient of the
    loss with respect to a factor of the unit."""
    block_importance: str = "loss"
    """Importance of blocks. `loss`: loss of the model without the block; `block_influence`:
    1 − cos(input, output) of the block, from a single forward pass."""
    head_unit: str = "groups"
    """Unit of removed heads. `groups`: a key-value head with all its query heads; `within_groups`:
    query heads, the same number from each group, while all key-value heads are kept."""
    fit: str = "propagated"
    """Weights of `o_proj` and `down_proj` after the removal. `weights`: as before; `outputs`:
    refitted to their outputs before the removal, on their inputs in the dense model; `propagated`:
    the same, on their inputs in the model whose earlier layers are cut already; `reconstructed`:
    `propagated`, and then all weights of each cut block are fitted to its output by gradient
    steps."""
    reconstruction: Settings = None
    """Gradient steps of `fit=reconstructed` for each block; None: the default ones."""
    self_distillation: Settings = None
    """Gradient steps on all weights at the end, with the dense model as teacher; None: none."""

    def __post_init__(self) -> None:
        """Check the choices."""
        share = Range(above=0, at_most=1, remedy="the share that is kept")
        check_fields(self, keep_channels=share, keep_heads=share, keep_blocks=share)
        check_choice("fit", self.fit, FITS)
        _ = self.refinements
        check_choice("importance", self.importance, IMPORTANCES)
        check_choice("block_importance", self.block_importance, BLOCK_IMPORTANCES)
        check_choice("head_unit", self.head_unit, HEAD_UNITS)
        shares = {n: getattr(self, n) for n in ("keep_channels", "keep_heads", "keep_blocks")}
        if all(share is None for share in shares.values()):
            raise ValueError(f"there is nothing to prune; give at least one of {', '.join(shares)}")
        if self.keep_channels is None and self.keep_heads is None and self.fit != "propagated":
            raise ValueError(
                f"fit={self.fit} has no effect without keep_channels or keep_heads; leave it out"
            )

    @cached_property
    def refinements(self) -> Refinements:
        """The gradient steps after the removal."""
        return Refinements.of_recipe(self.fit, self.reconstruction, self.self_distillation)

    @property
    def refines_weights(self) -> bool:
        """Whether gradient steps change the weights after they are fitted."""
        return self.refinements != Refinements()

    def check(self, model: MobileLLM) -> None:
        """Check that the recipe can be applied to `model`, before any data is read.

        Raises:
            ValueError: a block contains compressed matrices, a share keeps nothing or everything,
                or the sharing scheme would run the remaining blocks in another order.
        """
        self.check_config(model.config)
        self.refinements.check(model)

    def check_config(self, config: ModelConfig) -> None:
        """Check that the recipe can be applied to a model with this configuration.

        Raises:
            ValueError: as `check`.
        """
        check_dense_blocks(config)
        (count,) = kept_counts("keep_blocks", self.keep_blocks, [config.num_blocks])
        scheme, repeats = config.layer_sharing, config.block_repeats
        if not is_closed_under_removal(scheme, config.num_blocks, repeats, count):
            raise ValueError(
                f"keep_blocks={self.keep_blocks} removes blocks, but layer_sharing={scheme!r} "
                "would run the remaining blocks in another order than before; remove keep_blocks, "
                "and use keep_channels or keep_heads"
            )
        if self.keep_blocks is not None and list(self.layers) != ["blocks.*"]:
            raise ValueError(
                f"keep_blocks={self.keep_blocks} removes whole blocks, so layers={self.layers} "
                "cannot select some of their matrices; remove one of the two"
            )
        _ = self._units(config).counts

    def configs_after(self, config: ModelConfig) -> list[ModelConfig]:
        """The architectures that may result, depending on which blocks are kept.

        There are several only if the blocks of `config` have different sizes. If n blocks are
        removed, one of n + 1 blocks is kept at each position. The result contains n + 1
        configurations, in which each of these blocks occurs once at its position.

        Raises:
            ValueError: as `check`.
        """
        self.check_config(config)
        (count,) = kept_counts("keep_blocks", self.keep_blocks, [config.num_blocks])
        starts = range(config.num_blocks - count + 1)
        if len(set(config.block_shapes)) == 1:
            starts = starts[:1]
        return [self._first_units(config, range(start, start + count)) for start in starts]

    def _first_units(self, config: ModelConfig, blocks: Sequence[int]) -> ModelConfig:
        """The architecture with the given blocks and the first units of each."""
        smaller = StructuredPlan.whole(config, blocks).config_after(config)
        return self._units(smaller).first().config_after(smaller)

    def _units(self, config: ModelConfig) -> KeptUnits:
        """The choice of heads and channels in a model whose blocks are all kept."""
        return KeptUnits(
            config=config,
            layers=self.layers,
            keep_channels=self.keep_channels,
            keep_heads=self.keep_heads,
            head_unit=self.head_unit,
            importance=self.importance,
        )

    def plan(self, model: MobileLLM, calibration: Sequence[Batch]) -> StructuredPlan:
        """Choose the blocks to keep, and the heads and channels of these blocks.

        Raises:
            ValueError: as `check`, or there is too little calibration text.
        """
        self.check(model)
        self.refinements.check_calibration(calibration)
        model = working_copy(model)
        plan = StructuredPlan.whole(model.config, self._kept_blocks(model, calibration))
        smaller = pruned_model(model, plan)
        units = self._units(smaller.config)
        if not units.couplings:
            return plan
        if self.importance == "taylor":
            found = units.by_taylor(smaller, calibration)
        else:
            found = self._without(smaller, list(units.counts), units.choose, calibration).plan
        return replace(plan, heads=found.heads, channels=found.channels)

    def apply(
        self, model: MobileLLM, plan: StructuredPlan, calibration: Sequence[Batch]
    ) -> Compressed:
        """Create the smaller model.

        Returns:
            The model, and the relative error of the outputs of each `o_proj` and `down_proj` in a
            pruned layer on the calibration text, by its name in the new model. The inputs of the
            layer are those before its heads or channels are removed.

        Raises:
            ValueError: the plan belongs to another model, or there are too few calibration tokens.
        """
        whole = pruned_model(model, StructuredPlan.whole(model.config, plan.blocks))
        sizes = {coupling.name: coupling for coupling in couplings(whole.config)}
        kept = {f"blocks.{i}.hidden": indices for i, indices in enumerate(plan.channels)}
        kept |= {f"blocks.{i}.heads": indices for i, indices in enumerate(plan.heads)}
        kept = {name: k for name, k in kept.items() if len(k) < sizes[name].num_units}
        plan.check(model.config)
        fitted = self._without(whole, list(kept), lambda name, *_: kept[name], calibration)
        smaller = fitted.model.requires_grad_(True).train(model.training)
        refined, losses = self.refinements.apply(
            model, smaller, calibration, sorted({int(n.split(".")[1]) for n in kept}), whole=whole
        )
        return Compressed(refined, fitted.errors, losses)

    def _without(
        self,
        whole: MobileLLM,
        names: Sequence[str],
        choose: Choice,
        calibration: Sequence[Batch],
    ) -> StructuredFit:
        """The model without the units of the named couplings that `choose` does not keep."""
        return remove_units(
            whole,
            names,
            choose,
            calibration,
            refit=self.fit != "weights",
            propagated=self.fit in ("propagated", "reconstructed"),
        )

    def plan_from_dict(self, values: Mapping[str, Any]) -> StructuredPlan:
        """The inverse of `StructuredPlan.to_dict`."""
        return StructuredPlan.from_dict(values)

    def _kept_blocks(self, model: MobileLLM, calibration: Sequence[Batch]) -> list[int]:
        num_blocks = model.config.num_blocks
        (count,) = kept_counts("keep_blocks", self.keep_blocks, [num_blocks])
        if count == num_blocks:
            return list(range(num_blocks))
        measure = losses_without_blocks if self.block_importance == "loss" else block_influences
        return most_important(torch.tensor(measure(model, calibration)), count).tolist()
