"""The stages of a training run with compression: one `Trainer.fit` each.

The structure of the model changes between two stages. Nothing is kept in memory from one stage to
the next: the position of a run follows from its last checkpoint. A run that was killed at any
moment and resumed therefore gives the same result as one that was not interrupted.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mobilellm.accounting import count_parameters
from mobilellm.callbacks.staged_recipe import StagedRecipe
from mobilellm.checkpoint import model_from_state, save_model
from mobilellm.compression.plan import Plan
from mobilellm.compression.recipe import Batch
from mobilellm.compression.stages import Stages
from mobilellm.evaluation.untrained import warn_if_untrained
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.run_folder import write_text_atomically
from mobilellm.training.atomic_save import check_same_model, read_checkpoint, save_atomically
from mobilellm.training.carry_over import PREFIX, carry_over
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.ranks import run_on_first_rank

FOLDER = "compression"
PLAN = "plan.json"
REPORT = "report.json"
# The model that was compressed before the first step, until there is a checkpoint.
START = "start.ckpt"
# The model before its first compression, if it is the teacher.
DENSE = "dense"

Checkpoint = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """Results of the compression of one stage; every later checkpoint has them as plain data."""

    stage: int
    """Number of the stage, from 1."""
    layers: dict[str, Any]
    """Result for each compressed matrix, by name; empty if the model was changed as a whole."""
    loss_before: float
    """Validation loss before the stage's compression, nats per token."""
    loss_after: float
    """Validation loss after the compression and before recovery, nats per token."""
    parameters_before: int
    """Stored parameters before the compression."""
    parameters_after: int
    """Stored parameters after the compression."""
    seconds: float
    """Wall time of planning, compression and validation."""
    step: int
    """Optimizer steps completed before the stage."""
    tokens: int
    """Tokens trained on before the stage."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Arguments of the `Trainer.fit` of one stage."""

    module: LanguageModelModule
    """Module to train; its model has the structure of this stage."""
    checkpoint: Path | None
    """`ckpt_path` of `fit`; None: the fit starts with the weights in `module`."""
    max_steps: int
    """Optimizer steps of the whole run that are completed when the stage ends; -1: no limit."""
    is_last: bool
    """Whether no further compression follows."""
    records: tuple[StageRecord, ...] = ()
    """Records of the compressions so far, including that of this stage."""


@dataclass(frozen=True, kw_only=True)
class StageDriver:
    """Compresses the model of a run between two fits, and determines the next fit.

    It writes into the run's folder: `compression/plan.json` (the plan and its division into
    stages), `compression/start.ckpt` (the model, if it is compressed before the first step) and
    `compression/dense/` (the model before compression, if it is the teacher). The fields are
    described at `CompressionCallback.stages`.
    """

    staged: StagedRecipe
    state_key: str
    """Key of the callback's state in checkpoints."""
    module: LanguageModelModule
    data: TokenDataModule
    folder: Path
    keeps_dense: bool = False
    device: str = "cpu"
    mixed_precision: bool = False
    weights_from: str | None = None

    @property
    def dense_folder(self) -> Path:
        """Folder of the model before compression."""
        return dense_folder(self.folder)

    def next_stage(self, checkpoint: Path | None) -> Stage:
        """Compress the model if a stage begins now, and return the stage to train.

        It must be called on all ranks. Rank 0 atomically replaces the checkpoint by that of the
        compressed model while the others wait, and so it must not communicate with them.

        Args:
            checkpoint: the last checkpoint of the run; None if there is none.
        """
        path = checkpoint or self.folder / FOLDER / START
        starts = self.staged.starts(self.module.budget)

        def advance() -> None:
            state = _read(path) if path.exists() else None
            done = 0 if state is None else len(self._records(state))
            step = 0 if state is None else state["progress"]["step"]
            if done < len(starts) and starts[done] <= step:
                save_atomically(self._compressed(state, path), path)

        run_on_first_rank(advance)
        if not path.exists():
            return Stage(module=self.module, checkpoint=None, max_steps=starts[0], is_last=False)
        state = _read(path)
        records = self._records(state)
        self._check_base(state["model_config"], records)
        model = _model(ModelConfig.from_dict(state["model_config"]), state, path)
        is_last = len(records) == len(starts)
        total = self.module.budget.total_steps
        end = total if is_last else starts[len(records)]
        return Stage(
            module=self.module.with_model(model),
            checkpoint=checkpoint,
            max_steps=-1 if end is None else end,
            is_last=is_last,
            records=records,
        )

    def _compressed(self, checkpoint: Checkpoint | None, path: Path) -> Checkpoint:
        """Make the checkpoint from which the next stage starts.

        Args:
            checkpoint: the last checkpoint of the previous stage; None: the run has not begun.
            path: path of the checkpoint, for messages.
        """
        if checkpoint is None:
            checkpoint = {"callbacks": {}, "progress": {"step": 0, "tokens": 0}}
            model = self.module.model
        else:
            model = _model(ModelConfig.from_dict(checkpoint["model_config"]), checkpoint, path)
        records = self._records(checkpoint)
        if self.keeps_dense and not records:
            save_model(model, self.dense_folder)
        self._check_base(model.config.to_dict(), records)
        compressed, record = self._compress(model, len(records), checkpoint["progress"])
        state = {"records": [asdict(each) for each in (*records, record)]}
        old, new = self.module.with_model(model), self.module.with_model(compressed)
        result = carry_over(checkpoint, old, new)
        return result | {"callbacks": checkpoint["callbacks"] | {self.state_key: state}}

    def _compress(
        self, model: MobileLLM, index: int, progress: dict[str, Any]
    ) -> tuple[MobileLLM, StageRecord]:
        """Compress the matrices of stage `index`, counted from 0; returns the model and record."""
        started = time.monotonic()
        calibration = self.data.calibration_batches(self.staged.settings.calibration_tokens)
        model = model.to(self.device)
        # The random numbers of a recipe are reproducible, and do not change those of training.
        with torch.random.fork_rng():
            torch.manual_seed(self.data.seed)
            before = self._loss(model)
            if index == 0 and progress["step"] == 0 and self.weights_from is not None:
                warn_if_untrained(before, model.config.vocab_size, self.weights_from)
            plan = self._plan(model, calibration, index)
            compressed = self.staged.recipe.apply(model, plan, calibration)
            after = self._loss(compressed.model)
        record = StageRecord(
            stage=index + 1,
            layers=plan.layer_report(compressed.errors),
            loss_before=before,
            loss_after=after,
            parameters_before=count_parameters(model.config).stored,
            parameters_after=count_parameters(compressed.model.config).stored,
            seconds=round(time.monotonic() - started, 3),
            step=progress["step"],
            tokens=progress["tokens"],
        )
        model.to("cpu")
        return compressed.model.to("cpu"), record

    def _loss(self, model: MobileLLM) -> float:
        """Validation loss over the whole split in nats per token, without other ranks."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.mixed_precision):
            return sum_losses(model, self.data.all_validation_batches()).loss

    def _plan(self, model: MobileLLM, calibration: Sequence[Batch], index: int) -> Plan:
        """The part of the plan for stage `index`; the first stage makes and saves the whole plan.

        Raises:
            FileNotFoundError: the file of the plan is missing in a later stage.
        """
        path, recipe = self.folder / FOLDER / PLAN, self.staged.recipe
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        plan = recipe.plan_from_dict(saved["plan"]) if saved else None
        if plan is not None and saved["stages"]:
            return plan.only(Stages.from_dict(saved["stages"]).groups[index])
        if index:
            raise FileNotFoundError(
                f"{path}, the plan for stage {index + 1} of compression, is missing; restore it, "
                "or remove the run's folder and start again"
            )
        if plan is None:
            plan = recipe.plan(model, calibration)
            # Saved immediately, because a search takes minutes and its division may still fail.
            _save_plan(path, plan, None)
        width = None if sys.stderr.isatty() else 80
        Console(stderr=True, width=width, highlight=False).print(plan.table())
        stages = self.staged.divide(plan, model.config, self.module.budget)
        _save_plan(path, plan, stages)
        return plan if stages is None else plan.only(stages.groups[index])

    def _check_base(self, config: dict[str, Any], records: Sequence[StageRecord]) -> None:
        """Check that a checkpoint before the first compression has the model of the run."""
        if not records:
            check_same_model(config, self.module.model.config.to_dict())

    def _records(self, checkpoint: Checkpoint) -> tuple[StageRecord, ...]:
        state = checkpoint["callbacks"].get(self.state_key, {})
        return tuple(StageRecord(**record) for record in state.get("records", ()))


def dense_folder(folder: Path) -> Path:
    """Folder in which a run in `folder` saves its model before compression."""
    return folder / FOLDER / DENSE


def _save_plan(path: Path, plan: Plan, stages: Stages | None) -> None:
    values = {"plan": plan.to_dict(), "stages": stages and stages.to_dict()}
    write_text_atomically(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def _read(path: Path) -> Checkpoint:
    return read_checkpoint(path, mmap=True)


def _model(config: ModelConfig, checkpoint: Checkpoint, path: Path) -> MobileLLM:
    """The model in a checkpoint; its weights are copies, because the file may be replaced."""
    weights = {k.removeprefix(PREFIX): v.clone() for k, v in checkpoint["state_dict"].items()}
    return model_from_state(config, weights, path)
