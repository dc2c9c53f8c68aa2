"""The LightningModule: one Lightning batch is one optimizer step."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from mobilellm.evaluation.validation import ValidationResult, sum_losses
from mobilellm.losses.loss_terms import HasLossTerms, task_weights_of, term_sources
from mobilellm.losses.micro_batch import count_tasks, micro_batch_losses
from mobilellm.models import MobileLLM
from mobilellm.optim.parameter_groups import set_learning_rates
from mobilellm.optim.schedules import Schedule
from mobilellm.training.atomic_save import check_same_model
from mobilellm.training.compilation import compile_blocks_
from mobilellm.training.csv_logger import CSVLogger
from mobilellm.training.intervals import Intervals
from mobilellm.training.sharding import apply_fully_shard_, check_stored_parameters, gradient_sync
from mobilellm.training.step_filters import StepFilter, step_filters
from mobilellm.training.training_budget import TrainingBudget
from mobilellm.training.validation_callback import ValidationCallback

Batch = dict[str, Tensor]


class LanguageModelModule(LightningModule):
    """Next-token training of a MobileLLM.

    A batch is the list of a step's micro-batches, so the number of unmasked tokens of the whole
    step, over all micro-batches and ranks, is known before the first gradient: every loss is the
    sum over unmasked tokens divided by that number, exactly. For this the module optimizes by
    itself (Lightning's manual optimization); the hooks of callbacks run as usual, and
    `trainer.global_step` counts optimizer steps.

    Args:
        model: what is trained; its `config` goes into every checkpoint.
        optimizer: makes the optimizer from the model; the rates it sets are the peaks.
        schedule: (step, progress) to a factor of them.
        budget: when the run ends.
        gradient_clip_norm: largest norm of the whole gradient; None: not clipped.
        intervals: how often metrics are written and validation is run.
        compile: compile each block.
        activation_checkpointing: keep only each block's input and compute the rest again.
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
        compile: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        """Keep the parts; nothing is built before `setup`."""
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.budget = budget
        self.gradient_clip_norm = gradient_clip_norm
        self.intervals = intervals or Intervals()
        self.compile_blocks = compile
        self.activation_checkpointing = activation_checkpointing
        self.task_weights: dict[str, float] = {}
        """Weight of each task, if the data distinguishes several; a callback gives them."""
        self.auxiliary = nn.ModuleDict()
        """What is trained beside the model and is no part of it, such as a loss's projections."""
        self.progress = 0.0
        """Share of the budget used up once the current step is done."""
        self.tokens = 0
        """Tokens trained on, over all ranks and resumes."""
        self.latest_metrics: dict[str, float] = {}
        """Last value of everything written to the loggers."""
        self.validation_result: ValidationResult | None = None
        """Of the last validation."""
        self.validation_step: int | None = None
        """Optimizer steps done when it was made."""
        self.validation_seconds = 0.0
        """Wall time spent in validation since this process started."""
        self.finished = False
        """Whether the budget is spent."""
        self._seconds_before = 0.0
        self._started: float | None = None
        self._term_sources: list[HasLossTerms] = []
        self._step_filters: list[StepFilter] = []

    # Set-up

    def with_model(self, model: MobileLLM) -> "LanguageModelModule":
        """A new module that trains another model with the same settings; nothing else is shared."""
        return LanguageModelModule(
            model,
            optimizer=self.make_optimizer,
            schedule=self.schedule,
            budget=self.budget,
            gradient_clip_norm=self.gradient_clip_norm,
            intervals=self.intervals,
            compile=self.compile_blocks,
            activation_checkpointing=self.activation_checkpointing,
        )

    def setup(self, stage: str) -> None:
        """Apply the switches; runs after the callbacks' `setup`, so on their structure."""
        callbacks: Any = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self._term_sources, self._step_filters = term_sources(callbacks), step_filters(callbacks)
        self.task_weights = task_weights_of(callbacks)
        self.model.set_activation_checkpointing(self.activation_checkpointing)
        if self.compile_blocks and stage == "fit":
            compile_blocks_(self.model)

    def configure_model(self) -> None:
        """Shard the parameters where the strategy asks for it."""
        if self.device_mesh is not None:
            apply_fully_shard_(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer, with each group's peak rate kept beside the current one."""
        trained = self.model
        if len(self.auxiliary):
            parts = {**dict(self.model.named_children()), "auxiliary": self.auxiliary}
            trained = nn.ModuleDict(parts)
        optimizer = self.make_optimizer(trained)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return optimizer

    def configure_callbacks(self) -> list[Callback]:
        """Validation runs as a callback, so that checkpoints are written after it."""
        return [ValidationCallback()]

    # Training

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        """One optimizer step over all micro-batches of `batch`."""
        optimizer: Any = self.optimizers()
        rates = self._set_learning_rates(optimizer)
        counts = self._count_labels(batch)
        scale = self.trainer.world_size / counts.sum().clamp(min=1)
        optimizer.zero_grad()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for index, micro_batch in enumerate(batch):
            is_last = index == len(batch) - 1
            with gradient_sync(self.trainer.model, self.model, is_last=is_last):
                loss, values = micro_batch_losses(self, micro_batch, self._term_sources, counts)
                self.manual_backward(loss * scale)
            for name, value in values.items():
                sums[name] += value * scale
        norm = self._clip_gradients()
        if not self._should_apply(sums[""], norm):
            # Without gradients a step is counted and changes nothing.
            optimizer.zero_grad()
        optimizer.step()
        self.tokens += self.budget.tokens_per_step
        self.finished = self.budget.is_spent(self.global_step, self.agreed_seconds())
        if self.is_logged():
            self._write_step(sums, norm, rates)
        if self.finished:
            self.trainer.should_stop = True

    def _count_labels(self, batch: list[Batch]) -> Tensor:
        """Unmasked tokens of the whole step by task, over micro-batches and ranks; 0: of none."""
        counts = [count_tasks(m, len(self.task_weights)) for m in batch]
        return self._sum_over_ranks(torch.stack(counts).sum(0))

    def _set_learning_rates(self, optimizer: Any) -> dict[str, float]:
        """Set the groups' rates of this step; the rates by the names they are logged under."""
        step = self.global_step
        self.progress = self.budget.progress(step + 1, self.agreed_seconds())
        return set_learning_rates(optimizer, self.schedule(step, self.progress))

    def _clip_gradients(self) -> Tensor | None:
        """Whole norm of the gradient before clipping; None where nothing needs it."""
        is_needed = self._step_filters or self.is_logged(ahead=1)
        if self.gradient_clip_norm is None and not is_needed:
            return None
        largest = float("inf") if self.gradient_clip_norm is None else self.gradient_clip_norm
        norm: Any = nn.utils.clip_grad_norm_(self.parameters(), largest)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _should_apply(self, loss: Tensor, norm: Tensor | None) -> bool:
        """Whether every step filter lets the step change the weights; the same on all ranks."""
        if not self._step_filters or norm is None:
            return True
        mean = float(self._sum_over_ranks(loss) / self.trainer.world_size)
        return all(
            [
                step_filter.should_apply(self, mean, float(norm))
                for step_filter in self._step_filters
            ]
        )

    # Metrics

    def is_logged(self, ahead: int = 0) -> bool:
        """Whether the step that brings `global_step` to its value plus `ahead` is logged."""
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
        """Give values of this step to every logger; rows of one step are merged there."""
        row = {"tokens": self.tokens, "seconds": round(self.elapsed_seconds, 3), **metrics}
        self.latest_metrics.update(row)
        # Where stock callbacks such as EarlyStopping look for what they watch.
        self.trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in row.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=self.global_step)

    # Validation

    def is_validated(self, step: int) -> bool:
        """Whether validation follows step number `step`: by interval, at a stage's or run's end."""
        every = self.intervals.validation_steps
        ends = (self.budget.total_steps, self.trainer.max_steps)
        return self.finished or step in ends or bool(every and step % every == 0)

    def validate(self) -> ValidationResult:
        """Loss over the validation split, the same on any number of ranks; written to the log."""
        start = time.monotonic()
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        with self.trainer.precision_plugin.forward_context():
            result = sum_losses(
                self.model,
                data.validation_batches(),
                token_bytes=data.token_bytes,
                device=self.device,
                reduce=self._sum_over_ranks,
            )
        self.validation_seconds += time.monotonic() - start
        self.validation_result, self.validation_step = result, self.global_step
        metrics = {"val/loss": result.loss}
        if result.bits_per_byte is not None:
            metrics["val/bits_per_byte"] = result.bits_per_byte
        self.write_metrics(metrics)
        return result

    # Time, ranks and checkpoints

    @property
    def elapsed_seconds(self) -> float:
        """Wall time of training and validation, over all resumes."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds_before + running

    def on_train_start(self) -> None:
        """Start the clock; drop what was logged after the checkpoint; validate."""
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
        """Add what the next run needs: plain numbers, strings and tensors only."""
        checkpoint["model_config"] = self.model.config.to_dict()
        checkpoint["progress"] = {
            "step": self.global_step,
            "tokens": self.tokens,
            "seconds": self.elapsed_seconds,
        }
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: a checkpoint of another architecture.
        """
        check_same_model(checkpoint["model_config"], self.model.config.to_dict())
        self.tokens = checkpoint["progress"]["tokens"]
        self._seconds_before = checkpoint["progress"]["seconds"]
        torch.set_rng_state(checkpoint["random_state"].cpu())

    def agreed_seconds(self) -> float:
        """Elapsed time, one value for all ranks; not asked for unless time is limited."""
        if self.budget.max_seconds is None:
            return 0.0
        mine = torch.tensor(self.elapsed_seconds / self.trainer.world_size)
        return float(self._sum_over_ranks(mine))

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        """All-reduced sum, on the device that the ranks talk through."""
        if self.trainer.world_size == 1:
            return value
        summed = value.to(self.device, copy=True)
        torch.distributed.all_reduce(summed)
        return summed.to(value.device)
