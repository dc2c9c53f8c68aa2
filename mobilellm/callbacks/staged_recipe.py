"""A compression recipe together with the stages in which a training run applies it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mobilellm.compression.plan import Plan
from mobilellm.compression.recipe import Recipe
from mobilellm.compression.stage_settings import StageSettings
from mobilellm.compression.stages import Stages, group_layers, stage_starts
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.training_budget import TrainingBudget


@dataclass(frozen=True)
class StagedRecipe:
    """Divides the matrices that a recipe compresses, and the steps of a run, into stages."""

    recipe: Recipe
    settings: StageSettings

    def check(self, config: ModelConfig, budget: TrainingBudget) -> None:
        """Check the recipe and the stages before any data are read.

        Args:
            config: configuration of the model before compression.
            budget: budget of the run.

        Raises:
            ValueError: the recipe cannot compress this model, the stages do not fit into the
                budget, or the groups are not the matrices that the recipe names.
        """
        with torch.device("meta"):
            model = MobileLLM(config)
        self.recipe.check(model)
        self.starts(budget)
        names = self.recipe.layer_names(config)
        if not names:
            self._check_single_stage()
        elif self.settings.resolved_order != "least_sensitive":
            self._group(config, names)

    def starts(self, budget: TrainingBudget) -> tuple[int, ...]:
        """The number of completed optimizer steps at which each stage begins.

        Raises:
            ValueError: the stages do not fit into the budget, or `max_seconds` could end the run
                before the last one begins.
        """
        starts = stage_starts(
            budget.total_steps,
            self.settings.resolved_num_stages,
            first_start=self.settings.first_start,
            recovery_share=self.settings.recovery_share,
        )
        if starts[-1] > 0 and budget.max_seconds is not None:
            raise ValueError(
                f"max_seconds={budget.max_seconds} could end the run before its last stage of "
                "compression; give max_tokens or max_steps alone, or one stage with first_start=0"
            )
        return starts

    def divide(self, plan: Plan, config: ModelConfig, budget: TrainingBudget) -> Stages | None:
        """Divide the matrices of the plan into stages; None if it changes the model as a whole.

        Raises:
            ValueError: the matrices cannot be divided into these stages.
        """
        if not plan.names:
            self._check_single_stage()
            return None
        groups = self._group(config, plan.names, plan.expected_errors)
        return Stages(groups, self.starts(budget))

    def _group(
        self,
        config: ModelConfig,
        names: Sequence[str],
        errors: Mapping[str, float | None] | None = None,
    ) -> tuple[tuple[str, ...], ...]:
        return group_layers(
            config,
            names,
            num_stages=self.settings.resolved_num_stages,
            order=self.settings.resolved_order,
            patterns=self.settings.groups or (),
            errors=errors,
        )

    def _check_single_stage(self) -> None:
        num_stages, order = self.settings.resolved_num_stages, self.settings.resolved_order
        if num_stages > 1 or order not in ("forward", "backward"):
            raise ValueError(
                f"{type(self.recipe).__name__} compresses the model as a whole, not layer by "
                f"layer; use num_stages=1 and no groups (num_stages={num_stages}, order={order})"
            )
