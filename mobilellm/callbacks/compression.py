"""Compression of a model while it is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from mobilellm.callbacks.compression_stages import (
    Stage,
    StageDriver,
    StageRecord,
    dense_folder,
)
from mobilellm.callbacks.staged_recipe import StagedRecipe
from mobilellm.checkpoint_files import CHECKPOINTS, last_checkpoint, latest_valid_checkpoint
from mobilellm.compression.recipe import Recipe
from mobilellm.compression.stage_settings import StageSettings
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.ranks import run_on_first_rank
from mobilellm.training.training_budget import TrainingBudget

METRICS = {
    "compression/stage": "stage",
    "compression/loss_before": "loss_before",
    "compression/loss_after": "loss_after",
    "parameters/stored": "parameters_after",
}


class CompressionCallback(Callback):
    """Compresses the model in stages, each of which is followed by recovery training.

    Compression changes the structure of the model, and so each stage needs a separate
    `Trainer.fit`; `stages` compresses the model between them:

        compression = CompressionCallback(recipe, num_stages=3)
        for stage in compression.stages(module, data, folder):
            trainer = Trainer(max_steps=stage.max_steps, callbacks=[compression, checkpoints])
            trainer.fit(stage.module, data, ckpt_path=stage.checkpoint)

    During a fit, the callback logs the result of the stage's compression
    (`compression/loss_before`, …) and saves the records of all stages in every checkpoint.

    Args:
        recipe: the compression method.
        num_stages: number of stages; None: one, or one per group.
        order: `forward` (by depth), `backward`, `least_sensitive` (smallest expected error first)
            or `given`; None: `forward`, or `given` if there are groups.
        groups: patterns of the matrices of each stage, for the order `given`.
        first_start: share of the run's steps before the first stage; 0: the model is compressed
            before the first step.
        recovery_share: share of the run's steps in each stage except the last, which has the rest;
            None: all stages have the same number of steps.
        calibration_tokens: amount of training text for the recipe's calibration, in tokens.

    Raises:
        ValueError: the order is unknown, a number is out of range, or the groups contradict other
            settings.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        num_stages: int | None = None,
        order: str | None = None,
        groups: Sequence[Sequence[str]] | None = None,
        first_start: float = 0.0,
        recovery_share: float | None = None,
        calibration_tokens: int = 65_536,
    ) -> None:
        """Check the settings; nothing is compressed yet."""
        settings = StageSettings(
            num_stages=num_stages,
            order=order,
            groups=groups,
            first_start=first_start,
            recovery_share=recovery_share,
            calibration_tokens=calibration_tokens,
        )
        self.staged = StagedRecipe(recipe, settings)
        self._records: tuple[StageRecord, ...] = ()
        self._folder: Path | None = None

    @property
    def records(self) -> tuple[StageRecord, ...]:
        """Records of the compressions so far."""
        return self._records

    @property
    def dense_folder(self) -> Path | None:
        """Folder of the model before compression; None before `stages` was called."""
        return None if self._folder is None else dense_folder(self._folder)

    def stages(
        self,
        module: LanguageModelModule,
        data: TokenDataModule,
        folder: str | Path,
        *,
        checkpoint: Path | None = None,
        keep_dense: bool = False,
        device: str = "cpu",
        mixed_precision: bool = False,
        weights_from: str | None = None,
    ) -> Iterator[Stage]:
        """Yield the remaining stages of a run, each after its model has been compressed.

        Every stage must end with a checkpoint in `folder/checkpoints`, which a `CheckpointCallback`
        writes: the next stage starts from it, and so does a run that was interrupted. It must be
        called on all ranks. The iteration ends after the last stage, or after a stage that was
        stopped early.

        Args:
            module: module with the initial model and the training settings of all stages.
            data: for calibration and validation; its seed is also the seed of the recipe.
            folder: folder of the run; the plan is saved in `folder/compression`.
            checkpoint: checkpoint to resume from; None: the last valid one in the folder, if any.
            keep_dense: save the model before compression, which `teacher="dense"` needs.
            device: device for compression and validation, `cpu` or `cuda`.
            mixed_precision: validate in bfloat16, for a trainer with `precision="bf16-mixed"`.
            weights_from: origin of the initial weights, for a warning if they are no better than
                chance; None: they were drawn at random.

        Raises:
            ValueError: a check of `check` fails, or a stage ended without a checkpoint.
        """
        self.check(module.model.config, module.budget)
        self._folder = Path(folder)
        driver = StageDriver(
            staged=self.staged,
            state_key=self.state_key,
            module=module,
            data=data,
            folder=self._folder,
            keeps_dense=keep_dense,
            device=device,
            mixed_precision=mixed_precision,
            weights_from=weights_from,
        )
        if checkpoint is None:
            checkpoint = run_on_first_rank(partial(latest_valid_checkpoint, self._folder))
        previous: Stage | None = None
        while True:
            stage = driver.next_stage(checkpoint)
            if previous is not None and stage.max_steps == previous.max_steps:
                raise ValueError(
                    f"the stage ended at step {stage.max_steps}, but {self._folder / CHECKPOINTS} "
                    "has no checkpoint of that step, from which the next stage must start; give "
                    "the trainer a CheckpointCallback for that folder"
                )
            self._records = stage.records
            yield stage
            if stage.is_last or stage.module.global_step < stage.max_steps:
                return
            previous, checkpoint = stage, last_checkpoint(self._folder)

    def check(self, config: ModelConfig, budget: TrainingBudget) -> None:
        """Check the recipe and the stages before any data are read.

        Raises:
            ValueError: the recipe cannot compress this model, the stages do not fit into the
                budget, or the groups are not the matrices that the recipe names.
        """
        self.staged.check(config, budget)

    def configs_after(self, config: ModelConfig) -> list[ModelConfig]:
        """The architectures that compression may result in: heads, widths and blocks only."""
        return self.staged.recipe.configs_after(config)

    def finish(self, model: MobileLLM) -> MobileLLM:
        """The model to save at the end of the run; see `Recipe.finish`."""
        return self.staged.recipe.finish(model)

    def starts(self, budget: TrainingBudget) -> tuple[int, ...]:
        """The number of completed optimizer steps at which each stage begins.

        Raises:
            ValueError: the stages do not fit into the budget.
        """
        return self.staged.starts(budget)

    def report(self, final_loss: float | None) -> list[dict[str, Any]]:
        """The records of all stages, with the validation loss after recovery, as plain data.

        Args:
            final_loss: validation loss of the current model, nats per token.
        """
        recovered = [record.loss_before for record in self._records[1:]] + [final_loss]
        return [
            asdict(record) | {"loss_recovered": loss}
            for record, loss in zip(self._records, recovered, strict=False)
        ]

    # Lightning's hooks

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check that the fit was prepared by `stages`.

        Raises:
            ValueError: `stages` was not called.
        """
        if stage == "fit" and self._folder is None:
            raise ValueError(
                "CompressionCallback compresses the model between fits; fit the module of each "
                "stage: for stage in compression.stages(module, data, folder)"
            )

    def state_dict(self) -> dict[str, Any]:
        """The records of all stages so far, as plain data."""
        return {"records": [asdict(record) for record in self._records]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the records."""
        self._records = tuple(StageRecord(**record) for record in state_dict["records"])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log the stage before its first step; a run that resumes there logs the same row again."""
        if self._records and self._records[-1].step == trainer.global_step:
            record = asdict(self._records[-1])
            pl_module.write_metrics({name: record[key] for name, key in METRICS.items()})
