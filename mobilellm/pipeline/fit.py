"""Fits a run: Lightning trains its model, in one fit or in one per stage of compression."""

import copy
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from mobilellm.callbacks.compression_stages import Stage
from mobilellm.callbacks.graceful_stop import GracefulStopCallback
from mobilellm.checkpoint import model_from_state
from mobilellm.cli.command import Stopped
from mobilellm.data import PreparedData
from mobilellm.models import MobileLLM
from mobilellm.pipeline.checkpoints import first_checkpoint, rewind_checkpoint
from mobilellm.pipeline.memory import reset_peak_memory
from mobilellm.pipeline.micro_batch import micro_batch_size
from mobilellm.pipeline.parts import make_data, make_model, make_module
from mobilellm.pipeline.results import EarlyEnd, Results, callback_of, end_early, measure_results
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.stages import report_stages, stages_of
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.divergence import RollbackRequest
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.ranks import run_on_first_rank
from mobilellm.training.trainer import make_trainer


@dataclass(frozen=True)
class Fitted:
    """The results of a fit."""

    results: Results
    model: MobileLLM | None
    """With all its weights; None on all processes but the first if devices shard them."""


def fit(run: Run, prepared: PreparedData) -> Fitted:
    """Train from the last valid checkpoint of the run's folder, or from the initial weights.

    Called on all ranks; the first one chooses the checkpoint.

    Raises:
        ValueError: the checkpoints are damaged.
        Stopped: a signal ended the run after it saved.
    """
    checkpoint = run_on_first_rank(partial(first_checkpoint, run))
    size = micro_batch_size(run)
    data = make_data(run, prepared, size)
    reset_peak_memory(run.trainer.device_type)
    with _closing(run.parts.loggers):
        while True:
            # Built again only after a rollback: the strategy may have sharded the first one.
            initial = make_module(run, make_model(run))
            try:
                module, early = _fit_stages(run, initial, data, checkpoint)
                break
            except RollbackRequest as request:
                checkpoint = run_on_first_rank(partial(rewind_checkpoint, run, request))
    results = measure_results(run, module.trainer, module, micro_batch_size=size, ended_early=early)
    further = report_stages(run, results)
    return Fitted(replace(results, further=results.further | further), _whole_model(run, module))


def _fit_stages(
    run: Run, initial: LanguageModelModule, data: TokenDataModule, checkpoint: Path | None
) -> tuple[LanguageModelModule, EarlyEnd | None]:
    """Train until the last stage ends, or the run is stopped; the module of the last fit.

    Raises:
        RollbackRequest: the run has to continue from its last checkpoint.
        Stopped: a signal ended the run after it saved.
    """
    module, early = initial, None
    for stage in stages_of(run, initial, data, checkpoint):
        trainer, module = _fit_stage(run, stage, data), stage.module
        _raise_if_stopped(run)
        early = end_early(run, trainer, module, is_last=stage.is_last)
        if early is not None:
            break
    return module, early


def _fit_stage(run: Run, stage: Stage, data: TokenDataModule) -> Trainer:
    """Train to the end of the stage."""
    module, checkpoint = stage.module, stage.checkpoint
    trainer = make_trainer(
        run.trainer,
        max_steps=stage.max_steps,
        callbacks=_for_one_fit(run.parts.callbacks),
        loggers=run.parts.loggers,
        log_steps=run.config["log_interval_steps"],
    )
    with _interruptible(run):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and str(checkpoint))
    if module.validation_result is None and run.budget.is_spent(
        trainer.global_step, module.elapsed_seconds
    ):
        # Killed between the last step and the summary: only the validation is missing.
        module.finished = True
        _validate_again(trainer, module)
    return trainer


def _for_one_fit(callbacks: Iterable[Callback]) -> list[Callback]:
    """Our callbacks, and copies of others in the state in which they were built.

    Callbacks of Lightning and of the user may serve one fit only: a Timer never resets its end.
    What they must remember from one stage to the next is in the checkpoint.
    """
    return [one if _is_ours(one) else copy.deepcopy(one) for one in callbacks]


def _is_ours(callback: Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "mobilellm"


def _validate_again(trainer: Trainer, module: LanguageModelModule) -> None:
    """Validate after `fit`, on the device of training: Lightning has moved the model to the CPU.

    Ranks communicate through their devices, and the result should be the one of training.
    """
    device = next(module.model.parameters()).device
    module.to(trainer.strategy.root_device)
    module.validate()
    module.to(device)


@contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Turn an interrupt into `Stopped`: Lightning exits with code 1, and leaves Ctrl-C ignored.

    Raises:
        Stopped: Ctrl-C before the first step, a second Ctrl-C later, or SIGTERM without the
            callback that waits for the end of the step.
    """
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
            "continues from the last checkpoint",
            number,
        ) from end
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _raise_if_stopped(run: Run) -> None:
    """Raise `Stopped` if a signal ended the fit."""
    stop = callback_of(GracefulStopCallback, run.parts.callbacks)
    if stop is not None and stop.signal_name is not None:
        raise Stopped(f"{run.folder}: {stop.message}", signal.Signals[stop.signal_name])


def _whole_model(run: Run, module: LanguageModelModule) -> MobileLLM | None:
    """The model with all its weights; if devices shard them, gathered on the first process.

    Called on all processes; None on the others.
    """
    model: MobileLLM = module.model  # pyright: ignore[reportAssignmentType]
    if run.trainer.strategy != "fsdp":
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    return model_from_state(model.config, state, run.folder) if state else None  # pyright: ignore[reportArgumentType]


@contextmanager
def _closing(loggers: Iterable[Logger]) -> Iterator[None]:
    """End the run of every logger, whatever happens: the next one must not write into it."""
    try:
        yield
    finally:
        for logger in loggers:
            close = getattr(logger, "close", None)
            if close is not None:
                close()
