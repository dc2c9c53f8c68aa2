"""Results for summary.json: what a fit measured, and what ended it."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

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
# Facts of summary.json: plain data for JSON.
Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EarlyEnd:
    """A callback ended the run before its budget, as Lightning's EarlyStopping and Timer do."""

    by: str
    """Class of the callback."""
    reason: str | None
    step: int
    """Optimizer steps done."""
    share_of_budget: float
    """Share of the budget that was used."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is measured at the end of a fit; each field is a key of summary.json."""

    status: str
    """`finished` or `stopped`."""
    tokens: int
    steps: int
    val_loss: float | None
    """Nats per token; None: never validated."""
    val_bits_per_byte: float | None
    train_loss: float | None
    """Nats per token of the last logged step."""
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
    """Of the model at the end: compression may have changed it."""
    sequence_length: int
    """Of the windows, in tokens."""
    ended_early: EarlyEnd | None = None
    further: Facts = field(default_factory=dict)
    """What callbacks and compression report, by their own keys."""

    def to_dict(self) -> Facts:
        """The keys and values for summary.json."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("model", "further", "ended_early", "sequence_length"):
            del own[name]
        ended = {} if self.ended_early is None else {"ended_early": asdict(self.ended_early)}
        return own | describe_model(self.model, self.sequence_length) | self.further | ended


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
        run: that was trained.
        trainer: of the last fit.
        module: that it trained.
        micro_batch_size: windows per device and forward pass.
        ended_early: what ended the run before its budget, if anything did.
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
        status="finished" if module.finished else "stopped",
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
    """If a callback, neither the budget nor a signal, ended the run: validate and say so.

    The run then counts as finished, since the user asked for that callback; its summary has the
    tokens that it was trained on. Called on all ranks.

    Args:
        run: that is trained.
        trainer: after its fit.
        module: that it trained.
        is_last: whether no stage of compression is left; otherwise the run counts as stopped.
    """
    if not trainer.should_stop or module.finished:
        return None
    if module.validation_step != trainer.global_step:
        module.validate()
    by, reason = _stopping_callback(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    progress = module.budget.progress(trainer.global_step, module.elapsed_seconds)
    module.finished = is_last
    if trainer.is_global_zero:
        logger.warning(
            "%s ended the run after %.0f %% of its budget, at step %d%s",
            by, 100 * progress, trainer.global_step, f": {reason}" if reason else "",
        )  # fmt: skip
    return EarlyEnd(by=by, reason=reason, step=trainer.global_step, share_of_budget=progress)


def _stopping_callback(callbacks: Iterable[Callback]) -> tuple[str, str | None]:
    """The class of the callback that asked for the end, and its reason, as far as it is known."""
    for callback in callbacks:
        reason = getattr(callback, "stopping_reason_message", None)
        if reason:
            return type(callback).__name__, " ".join(reason.split())
    return "a callback", None


def callback_of(kind: type[Kind], callbacks: Iterable[Callback]) -> Kind | None:
    """The first callback of this class; None if there is none."""
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def describe_model(config: ModelConfig, sequence_length: int) -> Facts:
    """What follows from the architecture: parameters, FLOPs per token, bytes per token."""
    return {
        "model": config.to_dict(),
        "parameters": asdict(count_parameters(config)),
        "flops_per_token": asdict(flops_per_token(config, sequence_length)),
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config),
        "decode_bytes_per_token": decode_bytes_per_token(config, bits=16, context=sequence_length),
    }


def timestamp() -> str:
    """The time now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
