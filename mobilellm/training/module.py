"""The LightningModule: one Lightning batch is one optimizer step."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from mobilellm.evaluation.validation import ValidationResult
from mobilellm.losses.loss_terms import HasLossTerms, task_weights_of, term_sources
from mobilellm.losses.micro_batch import StepCounts, count_step, micro_batch_losses
from mobilellm.models import MobileLLM
from mobilellm.optim.parameter_groups import set_learning_rates
from mobilellm.optim.schedules import Schedule
from mobilellm.training.atomic_save import check_same_model
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.cuda_graph import GraphedPass
from mobilellm.training.execution import Execution
from mobilellm.training.frozen_weights import FrozenWeights
from mobilellm.training.intervals import Intervals
from mobilellm.training.ranks import sum_over_ranks
from mobilellm.training.sharding import apply_fully_shard_, check_stored_parameters, gradient_sync
from mobilellm.training.step_filters import StepGate
from mobilellm.training.training_budget import TrainingBudget
from mobilellm.training.validation import measure_validation, validation_metrics
from mobilellm.training.validation_callback import ValidationCallback

Batch = dict[str, Tensor]


class LanguageModelModule(LightningModule):
    """Next-token training of a MobileLLM.

    A batch is the list of a step's micro-batches. The number of unmasked tokens of the whole step,
    over all micro-batches and ranks, is therefore known before the first gradient, and every loss
    is exactly the sum over unmasked tokens divided by that number. This requires Lightning's manual
    optimization; the hooks of callbacks run as usual, and `trainer.global_step` counts optimizer
    steps.

    Args:
        model: the model to train; its `config` is saved in every checkpoint.
        optimizer: makes the optimizer of a model; the learning rates that it sets are the peaks.
        schedule: maps (step, progress) to a factor of the peak learning rates.
        budget: when the run ends.
        gradient_clip_norm: largest norm of the whole gradient; None disables clipping.
        intervals: how often metrics are written and validation is run.
        execution: options for speed and memory; default: none.
    """

    def __init__(
        self,
        model: MobileLLM,
        *,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        schedule: Schedule,
        budget: TrainingBudget,
        gradient_clip_norm: float | None = 1.0,
        intervals: Intervals | None = None,
        execution: Execution | None = None,
    ) -> None:
        """Keep the arguments; nothing is built before `setup`."""
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.budget = budget
        self.gradient_clip_norm = gradient_clip_norm
        self.intervals = intervals or Intervals()
        self.execution = execution or Execution()
        self.task_weights: dict[str, float] = {}
        """Weight of each task, set by a callback; empty if the data have no tasks."""
        self.auxiliary = nn.ModuleDict()
        """Modules that are trained with the model but do not belong to it, such as projections."""
        self.progress = 0.0
        """Share of the budget that is used when the current step ends."""
        self.tokens = 0
        """Tokens trained on so far, over all ranks, including those before a resume."""
        self.latest_metrics: dict[str, float] = {}
        """The last value of each metric that was written to the loggers."""
        self.validation_result: ValidationResult | None = None
        """Result of the last validation."""
        self.validation_step: int | None = None
        """Optimizer steps completed at the last validation."""
        self.validation_seconds = 0.0
        """Wall time spent in validation since this process started."""
        self.finished = False
        """Whether the budget has been used up."""
        self._seconds_before = 0.0
        self._started: float | None = None
        self._term_sources: list[HasLossTerms] = []
        self._step_gate = StepGate()
        self._frozen_weights = FrozenWeights(model)
        self._graphed_pass: GraphedPass | None = None

    # Set-up

    def with_model(self, model: MobileLLM) -> "LanguageModelModule":
        """A new module that trains another model with the same settings; nothing else is shared."""
        return LanguageModelModule(
            model, optimizer=self.make_optimizer, schedule=self.schedule, budget=self.budget,
            gradient_clip_norm=self.gradient_clip_norm, intervals=self.intervals,
            execution=self.execution,
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        """Collect loss terms and step filters; apply the options of execution."""
        callbacks: Any = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self._term_sources, self._step_gate = term_sources(callbacks), StepGate(callbacks)
        self.task_weights = task_weights_of(callbacks)
        is_fit = stage == "fit"
        self.execution.prepare_(self.model, for_training=is_fit)
        self._frozen_weights = FrozenWeights(self.model)
        if self.execution.cuda_graph and is_fit:
            self._graphed_pass = GraphedPass(self._pass)

    def configure_model(self) -> None:
        """Shard the parameters if the strategy is FSDP."""
        if self.device_mesh is not None:
            apply_fully_shard_(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer; each parameter group also keeps its peak learning rate."""
        trained = self.model
        if len(self.auxiliary):
            parts = {**dict(self.model.named_children()), "auxiliary": self.auxiliary}
            trained = nn.ModuleDict(parts)
            trained.config = self.model.config  # pyright: ignore[reportArgumentType]
        optimizer = self.make_optimizer(trained)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        return optimizer

    def configure_callbacks(self) -> list[Callback]:
        """Add the validation callback, so that it runs before checkpoints are written."""
        return [ValidationCallback()]

    # Training

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        """Run one optimizer step over all micro-batches of `batch`."""
        optimizer: Any = self.optimizers()
        rates = self._set_learning_rates(optimizer)
        counts = count_step(batch, len(self.task_weights), self._sum_over_ranks)
        scale = self.trainer.world_size / counts.labels.sum().clamp(min=1)
        # A graph writes to the gradients where they are.
        optimizer.zero_grad(set_to_none=self._graphed_pass is None)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for index, micro_batch in enumerate(batch):
            is_last = index == len(batch) - 1
            with gradient_sync(self.trainer.model, self.model, is_last=is_last):
                values = (self._graphed_pass or self._pass)(micro_batch, counts, scale)
            for name, value in values.items():
                sums[name] += value * scale
        norm = self._clip_gradients()
        self._step_gate.step(self, optimizer, sums[""], norm)
        self.tokens += self.budget.tokens_per_step
        self.finished = self.budget.is_spent(self.global_step, self.mean_elapsed_seconds())
        if self.is_logged():
            self._step_gate.settle()
            self._write_step(sums, norm, rates)
        if self.finished:
            self.trainer.should_stop = True

    def _pass(self, batch: Batch, counts: StepCounts, scale: Tensor) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch, and return the parts of its loss by name."""
        loss, values = micro_batch_losses(self, batch, self._term_sources, counts)
        self.manual_backward(loss * scale)
        return values

    def _set_learning_rates(self, optimizer: Any) -> dict[str, float]:
        """Set the learning rates of this step, and return them by their names in the log."""
        step = self.global_step
        self.progress = self.budget.progress(step + 1, self.mean_elapsed_seconds())
        return set_learning_rates(optimizer, self.schedule(step, self.progress))

    def _clip_gradients(self) -> Tensor | None:
        """Clip the gradient, and return its norm before clipping; None if it is not needed."""
        is_needed = self._step_gate.filters or self.is_logged(ahead=1)
        if self.gradient_clip_norm is None and not is_needed:
            return None
        largest = float("inf") if self.gradient_clip_norm is None else self.gradient_clip_norm
        norm: Any = nn.utils.clip_grad_norm_(self.parameters(), largest)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    # Metrics

    def is_logged(self, ahead: int = 0) -> bool:
        """Whether metrics are written at step `global_step + ahead`."""
        step = self.global_step + ahead
        return step == 1 or step % self.intervals.log_steps == 0 or self.is_validated(step)

    def _write_step(
        self, sums: Mapping[str, Tensor], norm: Tensor | None, rates: Mapping[str, float]
    ) -> None:
        names = list(sums)
        stacked = torch.stack([sums[name] for name in names])
        values = (self._sum_over_ranks(stacked) / self.trainer.world_size).tolist()
        metrics = {f"train/loss{name}": v for name, v in zip(names, values, strict=True)}
        if norm is not None:
            metrics["gradient_norm"] = float(norm)
        self.write_metrics(metrics | dict(rates))

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Send values of the current step to all loggers, which merge the values of a step."""
        row = {"tokens": self.tokens, "seconds": round(self.elapsed_seconds, 3), **metrics}
        self.latest_metrics.update(row)
        # Lightning's own callbacks, such as EarlyStopping, read their metrics from here.
        self.trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in row.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=self.global_step)

    # Validation

    def is_validated(self, step: int) -> bool:
        """Whether to validate after `step` steps: by interval, or at the end of a fit."""
        every = self.intervals.validation_steps
        ends = (self.budget.total_steps, self.trainer.max_steps)
        return self.finished or step in ends or bool(every and step % every == 0)

    def validate(self) -> ValidationResult:
        """Validate and log the result, which does not depend on the number of ranks."""
        start = time.monotonic()
        result = measure_validation(self, self._sum_over_ranks)
        self.validation_seconds += time.monotonic() - start
        self.validation_result, self.validation_step = result, self.global_step
        self.write_metrics(validation_metrics(result))
        return result

    # Time, ranks and checkpoints

    @property
    def elapsed_seconds(self) -> float:
        """Wall time of training and validation, including that before a resume."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds_before + running

    def on_train_start(self) -> None:
        """Start the clock, remove the logged rows after the checkpoint, and validate if asked."""
        check_stored_parameters(self.model, "after wrapping and loading")
        self._started = time.monotonic()
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.cut_after(self.global_step)
        if self.intervals.validate_at_start and self.global_step == 0:
            self.validate()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self._seconds_before, self._started = self.elapsed_seconds, None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state for resuming, as plain numbers, strings and tensors only."""
        checkpoint["model_config"] = self.model.config.to_dict()
        self._frozen_weights.remove_from(checkpoint)
        checkpoint["progress"] = {
            "step": self.global_step,
            "tokens": self.tokens,
            "seconds": self.elapsed_seconds,
        }
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state from a checkpoint.

        Raises:
            ValueError: the checkpoint has another architecture, or other frozen weights.
        """
        check_same_model(checkpoint["model_config"], self.model.config.to_dict())
        self._frozen_weights.add_to(checkpoint)
        self.tokens = checkpoint["progress"]["tokens"]
        self._seconds_before = checkpoint["progress"]["seconds"]
        torch.set_rng_state(checkpoint["random_state"].cpu())

    def mean_elapsed_seconds(self) -> float:
        """Elapsed time, averaged over all ranks; 0 if the budget does not limit the time."""
        if self.budget.max_seconds is None:
            return 0.0
        mine = torch.tensor(self.elapsed_seconds / self.trainer.world_size)
        return float(self._sum_over_ranks(mine))

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        return sum_over_ranks(value, self.device)
