"""Results of training, for summary.json."""

import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

import torch
from lightning.pytorch import Callback, Trainer

from mobilellm.accounting import (
    count_parameters,
    decode_bytes_per_token,
    flops_per_token,
    kv_cache_bytes_per_token,
)
from mobilellm.callbacks.throughput import ThroughputCallback
from mobilellm.models import ModelConfig
from mobilellm.pipeline.memory import peak_memory_bytes
from mobilellm.pipeline.run import Run
from mobilellm.provenance import device_name
from mobilellm.training.compilation import compiled_graphs, warn_if_uncompiled
from mobilellm.training.module import LanguageModelModule

logger = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Callback)
# Entries of summary.json: plain data for JSON.
Facts = dict[str, Any]
# Entries of every summary.json that are known before training and are, or contain, numbers.
GIVEN_NUMBERS = (
    "identity_version", "seed", "starts_from", "model", "parameters", "flops_per_token",
    "kv_cache_bytes_per_token", "decode_bytes_per_token", "matched", "sequence_length",
    "max_tokens", "max_steps", "max_seconds", "tokens_per_step", "optimizer", "unigram_loss",
    "bigram_loss",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LearningRateTrial:
    """The result of a short run with one learning rate."""

    learning_rate: float
    val_loss: float | None
    """Nats per token; None if training diverged."""

    @property
    def has_finite_loss(self) -> bool:
        """Whether training did not diverge."""
        return self.val_loss is not None and math.isfinite(self.val_loss)


@dataclass(frozen=True, kw_only=True)
class EarlyEnd:
    """A callback, such as Lightning's EarlyStopping or Timer, ended the run before its budget."""

    by: str
    """Class name of the callback."""
    reason: str | None
    step: int
    """Optimizer steps done."""
    share_of_budget: float
    """Share of the training budget that was used, 0 to 1."""
    status: str = "finished"
    """Status of the run: finished, because the user chose the callback, or one that it names."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Measurements at the end of training; most fields are keys of summary.json."""

    status: str
    """`finished`, `stopped`, or the status that the callback which ended the run names."""
    tokens: int
    steps: int
    val_loss: float | None
    """Nats per token; None if the run was never validated."""
    val_bits_per_byte: float | None
    train_loss: float | None
    """Nats per token, of the last logged step."""
    learning_rate: float
    wall_seconds: float
    tokens_per_second: float | None
    compiled_graphs: int | None
    """None without compilation."""
    model_flops_utilization: float | None
    matmul_flops_per_second: float | None
    peak_memory_bytes: int
    micro_batch_size: int
    device: str
    devices: int
    threads: int
    precision: str
    finished_at: str
    model: ModelConfig
    """Configuration of the trained model, which compression may have changed, and from which
    adapters may have been merged."""
    with_adapters: ModelConfig | None = None
    """Configuration of the model as it was trained, if it had adapters that are merged."""
    sequence_length: int
    """Tokens per window."""
    ended_early: EarlyEnd | None = None
    further: Facts = field(default_factory=dict)
    """Further entries that callbacks and compression report."""

    def to_dict(self) -> Facts:
        """Entries of summary.json."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("model", "with_adapters", "further", "ended_early", "sequence_length"):
            del own[name]
        ended = {} if self.ended_early is None else {"ended_early": asdict(self.ended_early)}
        for early in ended.values():
            del early["status"]
        described = describe_model(self.model, self.sequence_length, trained=self.with_adapters)
        return own | described | self.further | ended


def measure_results(
    run: Run,
    trainer: Trainer,
    module: LanguageModelModule,
    *,
    micro_batch_size: int,
    ended_early: EarlyEnd | None,
) -> Results:
    """The results of a run after its last fit.

    Args:
        run: the run.
        trainer: the Lightning trainer of the last fit.
        module: the Lightning module of the last fit.
        micro_batch_size: windows per device and forward pass.
        ended_early: how a callback ended the run before its budget; None if none did.
    """
    device, validation = run.trainer.device_type, module.validation_result
    throughput = callback_of(ThroughputCallback, run.parts.callbacks)
    rate = None if throughput is None else throughput.tokens_per_second
    if run.trainer.compile and rate is not None:
        warn_if_uncompiled()
    reported: Facts = {}
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        reported |= getattr(callback, "summary", dict)()
    return Results(
        status=_status(module, ended_early),
        tokens=module.tokens,
        steps=module.global_step,
        val_loss=None if validation is None else validation.loss,
        val_bits_per_byte=None if validation is None else validation.bits_per_byte,
        train_loss=module.latest_metrics.get("train/loss"),
        learning_rate=run.learning_rate,
        wall_seconds=module.elapsed_seconds,
        tokens_per_second=rate,
        compiled_graphs=compiled_graphs() if run.trainer.compile else None,
        model_flops_utilization=getattr(throughput, "model_flops_utilization", None),
        matmul_flops_per_second=getattr(throughput, "matmul_flops_per_second", None),
        peak_memory_bytes=peak_memory_bytes(device),
        micro_batch_size=micro_batch_size,
        device=device_name(device),
        devices=run.trainer.world_size,
        threads=torch.get_num_threads(),
        precision=run.trainer.resolved_precision,
        finished_at=timestamp(),
        model=module.model.config,  # pyright: ignore[reportArgumentType]
        sequence_length=run.config["sequence_length"],
        ended_early=ended_early,
        further=reported,
    )


def end_early(
    run: Run, trainer: Trainer, module: LanguageModelModule, *, is_last: bool
) -> EarlyEnd | None:
    """Validate and log a warning if a callback ended the run before its budget.

    The run then counts as finished, because the user chose the callback, unless the callback names
    another status (`status_of_stopped_run`). Must be called on all ranks.

    Args:
        run: the run.
        trainer: the Lightning trainer, after its fit.
        module: the Lightning module that was trained.
        is_last: whether this was the last compression stage; if not, the run counts as stopped.

    Returns:
        None if the run ended because of its budget or a signal.
    """
    if not trainer.should_stop or module.finished:
        return None
    if module.validation_step != trainer.global_step:
        module.validate()
    by, reason, status = _stopping_callback(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    progress = module.budget.progress(trainer.global_step, module.elapsed_seconds)
    module.finished = is_last and status == "finished"
    if trainer.is_global_zero:
        logger.warning(
            "%s ended the run after %.0f %% of its budget, at step %d%s",
            by, 100 * progress, trainer.global_step, f": {reason}" if reason else "",
        )  # fmt: skip
    return EarlyEnd(
        by=by, reason=reason, step=trainer.global_step, share_of_budget=progress, status=status
    )


def _status(module: LanguageModelModule, early: EarlyEnd | None) -> str:
    if module.finished:
        return "finished"
    return early.status if early is not None and early.status != "finished" else "stopped"


def _stopping_callback(callbacks: Iterable[Callback]) -> tuple[str, str | None, str]:
    """The callback that stopped the trainer: class name, reason if it gives one, and status."""
    for callback in callbacks:
        reason = getattr(callback, "stopping_reason_message", None)
        if reason:
            status = getattr(callback, "status_of_stopped_run", "finished")
            return type(callback).__name__, " ".join(reason.split()), status
    return "a callback", None, "finished"


def callback_of(kind: type[Kind], callbacks: Iterable[Callback]) -> Kind | None:
    """The first callback of this class; None if there is none."""
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def describe_model(
    config: ModelConfig, sequence_length: int, *, trained: ModelConfig | None = None
) -> Facts:
    """Facts about an architecture: parameters, FLOPs per token and bytes per token.

    Args:
        config: the saved model.
        sequence_length: tokens.
        trained: the model whose training FLOPs count, if they are not those of `config`.
    """
    flops = flops_per_token(config, sequence_length)
    if trained is not None:
        flops = replace(flops, training=flops_per_token(trained, sequence_length).training)
    return {
        "model": config.to_dict(),
        "parameters": asdict(count_parameters(config)),
        "flops_per_token": asdict(flops),
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config),
        "decode_bytes_per_token": decode_bytes_per_token(config, bits=16, context=sequence_length),
    }


def entries_with_numbers() -> set[str]:
    """Names of the entries of every summary.json that are, or contain, numbers.

    Callbacks may report further entries.
    """
    kinds = {field.name: {field.type, *get_args(field.type)} for field in fields(Results)}
    measured = {name for name, kind in kinds.items() if kind & {int, float, EarlyEnd}}
    return {*GIVEN_NUMBERS, *measured}


def timestamp() -> str:
    """The current time in UTC, in ISO format with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
