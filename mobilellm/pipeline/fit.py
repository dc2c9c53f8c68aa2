"""Training proper: the run's parts are built, put together and fitted by Lightning."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.accounting import largest_micro_batch
from mobilellm.cli.command import Stopped
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.pipeline.callbacks_and_loggers import make_callbacks, make_loggers
from mobilellm.pipeline.compression import Stage, enter_stage, find_compression, finish
from mobilellm.pipeline.distillation import teacher_bytes
from mobilellm.pipeline.early_end import end_early, is_ended_early
from mobilellm.pipeline.extension import first_checkpoint, make_schedule
from mobilellm.pipeline.measurements import find_callback, measurements
from mobilellm.pipeline.memory import free_memory_bytes, reset_peak_memory
from mobilellm.pipeline.plan import Run
from mobilellm.pipeline.rollback import roll_back_run
from mobilellm.run_folder import last_checkpoint

if TYPE_CHECKING:
    from mobilellm.data import PreparedData

# A run is validated so often where no interval is given.
VALIDATIONS_PER_RUN = 10
# Share of the free memory that micro_batch_size=auto may plan with: the forecast is no measurement.
MEMORY_SHARE = 0.7
# More tokens at a time make no device faster, and on CPUs they only leave the caches.
AUTO_MICRO_BATCH_TOKENS = {"cpu": 4096}


def fit(run: Run, prepared: "PreparedData") -> dict[str, Any]:
    """Train from the last sound checkpoint of the run's folder, or from the start.

    Called on all ranks; the first one chooses the checkpoint.

    Returns:
        What was measured, for the summary; under `trained_model` the model itself.

    Raises:
        ValueError: the checkpoints are damaged.
        Stopped: a signal ended the run after it saved.
    """
    from mobilellm.training.divergence import RollBack
    from mobilellm.training.ranks import first_does

    early: dict[str, Any] = {}
    checkpoint = first_does(lambda: first_checkpoint(run))
    size = micro_batch_size(run)
    loggers, data = make_loggers(run), make_data(run, prepared, size)
    reset_peak_memory(run.trainer.device_type)
    try:
        while True:
            # Made anew for each stage, as a resumed process would: all they know is saved.
            callbacks = make_callbacks(run)
            compression = find_compression(callbacks)
            if compression is None:
                stage = Stage(make_model(run), run.budget.total_steps, is_last=True)
            else:
                # Of its own: `data` may belong to a trainer, which shares it out among ranks.
                own = make_data(run, prepared, size)
                stage = enter_stage(run, own, compression, checkpoint)
            try:
                trainer, module = _fit_stage(run, stage, data, callbacks, loggers, checkpoint)
            except RollBack as rollback:
                checkpoint = first_does(partial(roll_back_run, run, rollback))
                continue
            _raise_if_stopped(trainer, run)
            if is_ended_early(trainer, module):
                early = end_early(trainer, module, is_last=stage.is_last)
                break
            if stage.is_last or trainer.global_step < (stage.end or 0):
                break
            checkpoint = last_checkpoint(run.folder)
    finally:
        _close(loggers)
    measured = measurements(run, trainer, module)
    return (
        measured
        | early
        | finish(
            run, compression, measured["val_loss"], module.model.config if module.finished else None
        )
        | {"trained_model": _whole_model(run, module)}
    )


def _fit_stage(
    run: Run, stage: Stage, data: Any, callbacks: list[Any], loggers: list[Any],
    checkpoint: Path | None,
) -> tuple[Any, Any]:  # fmt: skip
    """Train to the stage's end; the trainer and the module."""
    from mobilellm.training.trainer import make_trainer

    module = make_module(run, stage.model)
    trainer = make_trainer(
        run.trainer,
        max_steps=stage.end,
        callbacks=callbacks,
        loggers=loggers,
        log_steps=run.config["log_interval_steps"],
    )
    with _interruptible(run):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint))
    if module.validation_result is None and run.budget.is_spent(
        trainer.global_step, module.elapsed_seconds
    ):
        # Killed after the last step and before the summary: only the result is missing.
        module.finished = True
        _validate_again(trainer, module)
    return trainer, module


def _validate_again(trainer: Any, module: Any) -> None:
    """Validate after `fit`, on the device of training: Lightning has moved the model to the CPU.

    Ranks talk through their devices, and the result should be the one that training would give.
    """
    device = next(module.model.parameters()).device
    module.to(trainer.strategy.root_device)
    module.validate()
    module.to(device)


@contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Let an interrupt be one: Lightning exits with code 1, and leaves Ctrl-C ignored.

    Raises:
        Stopped: Ctrl-C before the first step or the second one later, or SIGTERM without the
            callback that would wait for the step's end.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        is_interrupt = isinstance(end.__context__, KeyboardInterrupt)
        if not (is_interrupt or isinstance(end, SIGTERMException)):
            raise
        number = signal.SIGINT if is_interrupt else signal.SIGTERM
        raise Stopped(
            f"{run.folder}: stopped at once by {number.name}; the same command with resume=true "
            "goes on from the last checkpoint",
            number,
        ) from end
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def make_module(run: Run, model: Any) -> Any:
    """The Lightning module of `model`."""
    from mobilellm.training.intervals import Intervals
    from mobilellm.training.module import LanguageModelModule

    per_step = run.config["tokens_per_step"]
    interval = run.config["validation_interval_tokens"]
    total = run.budget.total_steps
    if interval is not None:
        validation_steps = max(1, round(interval / per_step))
    else:
        validation_steps = None if total is None else max(1, total // VALIDATIONS_PER_RUN)
    return LanguageModelModule(
        model,
        optimizer=instantiate(run.config["optimizer"]),
        schedule=make_schedule(run),
        budget=run.budget,
        gradient_clip_norm=run.config["gradient_clip_norm"],
        intervals=Intervals(
            log_steps=run.config["log_interval_steps"], validation_steps=validation_steps
        ),
        compile=run.trainer.compile,
        activation_checkpointing=run.trainer.activation_checkpointing,
    )


def make_model(run: Run) -> Any:
    """The model with its initial weights: read from `init_from`, or drawn from the seed."""
    if run.config["init_from"] is not None:
        from mobilellm.formats.model_folder import open_model
        from mobilellm.models.layer_subset import layer_subset

        model, layers = open_model(run.config["init_from"])[0], run.config["init_layers"]
        return model if layers is None else layer_subset(model, layers)
    from mobilellm.models import MobileLLM
    from mobilellm.models.initialization import initialize_

    model = MobileLLM(run.model)
    initialize_(model, seed=run.config["seed"], **run.config["initialization"])
    return model


def make_data(run: Run, prepared: "PreparedData", micro_batch_size: int) -> Any:
    """The Lightning data module, windows in the order of the seed."""
    from mobilellm.training.datamodule import TokenDataModule

    return TokenDataModule(
        prepared,
        sequence_length=run.config["sequence_length"],
        micro_batch_size=micro_batch_size,
        samples_per_step=run.samples_per_step,
        seed=run.config["seed"],
        validation_tokens=run.config["validation_tokens"],
        document_mask=run.data.document_mask,
    )


def micro_batch_size(run: Run) -> int:
    """Windows per device and forward pass, the same on all ranks; called on all of them.

    Raises:
        ValueError: not even one window fits into memory.
    """
    world, samples = run.trainer.world_size, run.samples_per_step
    given, length = run.config["micro_batch_size"], run.config["sequence_length"]
    if given != "auto":
        return given
    from mobilellm.training.ranks import smallest_of_ranks

    device = run.trainer.device_type
    size = largest_micro_batch(
        run.model,
        MEMORY_SHARE * smallest_of_ranks(free_memory_bytes(device)) - teacher_bytes(run),
        length,
        divides=samples // world,
        optimizer=run.optimizer_name,
        precision=run.trainer.resolved_precision,
        activation_checkpointing=run.trainer.activation_checkpointing,
        accelerator=device,
        num_shards=world if run.trainer.strategy == "fsdp" else 1,
        document_mask=run.data.document_mask,
    )
    most = max(1, AUTO_MICRO_BATCH_TOKENS.get(device, size * length) // length)
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)


def _whole_model(run: Run, module: Any) -> Any:
    """The model with all its weights; where devices share them, gathered on the first process.

    Called on all of them; None on the others.
    """
    if run.trainer.strategy != "fsdp":
        return module.model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    from mobilellm.checkpoint import model_from_state

    state = get_model_state_dict(
        module.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return model_from_state(module.model.config, state, run.folder) if state else None  # pyright: ignore[reportArgumentType]


def _raise_if_stopped(trainer: Any, run: Run) -> None:
    """Tell the outermost wrapper that a signal ended the run."""
    from mobilellm.callbacks.graceful_stop import GracefulStopCallback

    stop = find_callback(trainer, GracefulStopCallback)
    if stop is None or stop.signal_name is None:
        return
    raise Stopped(f"{run.folder}: {stop.message}", signal.Signals[stop.signal_name])


def _close(loggers: list[Any]) -> None:
    """End every logger's run, whatever happened: an open W&B run would swallow the next one."""
    for logger in loggers:
        close = getattr(logger, "close", None)
        if close is not None:
            close()
