"""Trains the model of a run with Lightning, in one fit or in one fit per compression stage."""

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

from mobilellm.adapters import merge_adapters
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
    """Holds all weights. If they are sharded, it is None on all processes except the first."""
    adapted: MobileLLM | None = None
    """The model with its adapter, of which `model` has as much merged as possible; None if the run
    has no adapter or is not finished."""


def fit(run: Run, prepared: PreparedData) -> Fitted:
    """Train from the last valid checkpoint of the run's folder, or from the initial weights.

    Must be called on all ranks; rank 0 chooses the checkpoint.

    Raises:
        ValueError: the checkpoints are damaged.
        Stopped: a signal ended the run, which has saved a checkpoint.
    """
    checkpoint = run_on_first_rank(partial(first_checkpoint, run))
    size = micro_batch_size(run)
    data = make_data(run, prepared, size)
    reset_peak_memory(run.trainer.device_type)
    with _closing(run.parts.loggers):
        while True:
            # Rebuilt after a rollback, because the strategy may have sharded the first one.
            initial = make_module(run, make_model(run))
            try:
                module, early = _fit_stages(run, initial, data, checkpoint)
                break
            except RollbackRequest as request:
                checkpoint = run_on_first_rank(partial(rewind_checkpoint, run, request))
    results = measure_results(run, module.trainer, module, micro_batch_size=size, ended_early=early)
    model = _whole_model(run, module)
    if run.parts.compression is not None and results.status == "finished" and model is not None:
        model = run.parts.compression.finish(model)
        results = replace(results, model=model.config)
    adapted = None
    if run.parts.adapter is not None and results.status == "finished" and model is not None:
        adapted, model = model, merge_adapters(model)
        results = replace(results, model=model.config, with_adapters=adapted.config)
    further = report_stages(run, results)
    return Fitted(replace(results, further=results.further | further), model, adapted)


def _fit_stages(
    run: Run, initial: LanguageModelModule, data: TokenDataModule, checkpoint: Path | None
) -> tuple[LanguageModelModule, EarlyEnd | None]:
    """Train until the last stage ends or the run is stopped; returns the last module.

    Raises:
        RollbackRequest: the loss guard requires the run to continue from its last checkpoint.
        Stopped: a signal ended the run, which has saved a checkpoint.
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
        # The run was killed between the last step and the summary; only validation is missing.
        module.finished = True
        _validate_after_fit(trainer, module)
    return trainer


def _for_one_fit(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks for one fit: ours, and fresh copies of all others.

    Callbacks of Lightning and of the user may support only one fit; a Timer, for example, is never
    reset. State that they keep between stages is in the checkpoint.
    """
    return [one if _is_ours(one) else copy.deepcopy(one) for one in callbacks]


def _is_ours(callback: Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "mobilellm"


def _validate_after_fit(trainer: Trainer, module: LanguageModelModule) -> None:
    """Validate after `fit`, when Lightning has already moved the model to the CPU.

    The model is moved back to the device of training, because ranks communicate through their
    devices and the result must be the same as during training.
    """
    device = next(module.model.parameters()).device
    module.to(trainer.strategy.root_device)
    module.validate()
    module.to(device)


@contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Convert an interrupt into `Stopped` and restore the handler of Ctrl-C.

    Lightning would exit with code 1 and leave Ctrl-C ignored.

    Raises:
        Stopped: Ctrl-C before the first step, a second Ctrl-C, or SIGTERM if the callback that
            waits for the end of the step is missing.
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
    """The model with all its weights; sharded weights are gathered on the first process.

    Must be called on all processes; if the weights are sharded, the others get None.
    """
    model: MobileLLM = module.model  # pyright: ignore[reportAssignmentType]
    if run.trainer.strategy != "fsdp":
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    return model_from_state(model.config, state, run.folder) if state else None  # pyright: ignore[reportArgumentType]


@contextmanager
def _closing(loggers: Iterable[Logger]) -> Iterator[None]:
    """Close all loggers at the end, so that the next run does not write into this run's logs."""
    try:
        yield
    finally:
        for logger in loggers:
            close = getattr(logger, "close", None)
            if close is not None:
                close()
