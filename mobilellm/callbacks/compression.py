"""Compression of the model while it trains: by which recipe, in which stages."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback

from mobilellm.compression.plan import Plan
from mobilellm.compression.recipe import Recipe
from mobilellm.compression.stage_settings import StageSettings
from mobilellm.compression.stages import Stages, group_layers, stage_starts
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.training_budget import TrainingBudget

METRICS = {
    "compression/stage": "stage",
    "compression/loss_before": "loss_before",
    "compression/loss_after": "loss_after",
    "parameters/stored": "parameters_after",
}


class CompressionCallback(Callback):
    """Says when the model is compressed and on what, and writes to the log what it led to.

    The run is a sequence of stages, one `fit` each; before a stage begins the pipeline applies
    `recipe` to the stage's layers. What a stage did is a record of plain data, kept in every
    checkpoint.

    Args:
        recipe: the method; `check`, `plan` and `apply` as `mobilellm.compression.recipe.Recipe`.
        stage_settings: fields of `StageSettings`, such as `num_stages`.

    Raises:
        ValueError: an unknown order, numbers out of range, groups that contradict the others.
    """

    def __init__(self, recipe: Recipe, **stage_settings: Any) -> None:
        """Nothing is compressed yet."""
        settings = StageSettings(**stage_settings)
        self.recipe = recipe
        self.num_stages = settings.resolved_num_stages
        self.order = settings.resolved_order
        self.groups = settings.groups
        self.first_start = settings.first_start
        self.recovery_share = settings.recovery_share
        self.calibration_tokens = settings.calibration_tokens
        self.records: list[dict[str, Any]] = []
        """What each stage so far did: losses in nats per token, counts in parameters."""

    def check(self, config: ModelConfig, budget: TrainingBudget) -> None:
        """Refuse what cannot be done, before any data is read.

        Raises:
            ValueError: what the recipe refuses for this model, stages that do not fit into the
                budget, groups that are not the recipe's layers.
        """
        with torch.device("meta"):
            model = MobileLLM(config)
        self.recipe.check(model)
        self.starts(budget)
        names = self.recipe.layer_names(config)
        if not names:
            self._check_single()
        elif self.order != "least_sensitive":
            self._group(config, names)

    def configs_after(self, config: ModelConfig) -> list[ModelConfig]:
        """As `Recipe.configs_after`: the architectures that may result, known without data."""
        return self.recipe.configs_after(config)

    def starts(self, budget: TrainingBudget) -> tuple[int, ...]:
        """Optimizer steps done when each stage begins.

        Raises:
            ValueError: stages that do not fit into the budget, or that time could cut off.
        """
        starts = stage_starts(
            budget.total_steps,
            self.num_stages,
            first_start=self.first_start,
            recovery_share=self.recovery_share,
        )
        if starts[-1] > 0 and budget.max_seconds is not None:
            raise ValueError(
                f"max_seconds={budget.max_seconds} could end the run before its last stage of "
                "compression; give max_tokens or max_steps alone, or one stage with first_start=0"
            )
        return starts

    def stages(self, plan: Plan, config: ModelConfig, budget: TrainingBudget) -> Stages | None:
        """The matrices of the plan by stages; None if it changes the model as a whole.

        Raises:
            ValueError: layers that cannot be divided as asked for.
        """
        if not plan.names:
            self._check_single()
            return None
        groups = self._group(config, plan.names, plan.expected_errors)
        return Stages(groups, self.starts(budget))

    def state_dict(self) -> dict[str, Any]:
        """What the stages so far did."""
        return {"records": self.records}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.records = list(state_dict["records"])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Write what the stage began with, before its first step: after a resume the same row."""
        if self.records and self.records[-1]["step"] == trainer.global_step:
            record = self.records[-1]
            pl_module.write_metrics({name: record[key] for name, key in METRICS.items()})

    def _group(
        self, config: ModelConfig, names: Sequence[str], errors: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], ...]:
        return group_layers(
            config,
            names,
            num_stages=self.num_stages,
            order=self.order,
            patterns=self.groups or (),
            errors=errors,
        )

    def _check_single(self) -> None:
        if self.num_stages > 1 or self.order not in ("forward", "backward"):
            raise ValueError(
                f"{type(self.recipe).__name__} compresses the model as a whole, not layer by "
                f"layer; use num_stages=1 and no groups (num_stages={self.num_stages}, "
                f"order={self.order})"
            )
