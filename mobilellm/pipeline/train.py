"""Trains one run, from its configuration to the trained model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from omegaconf import DictConfig

from mobilellm.cli.command import Stopped
from mobilellm.data import PreparedData, prepare_data
from mobilellm.data.overview import begin_of_documents
from mobilellm.pipeline.extension import check_same_data
from mobilellm.pipeline.fit import fit
from mobilellm.pipeline.horizons import HORIZONS, horizon_runs
from mobilellm.pipeline.parts import named_errors
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.probe import probe_learning_rate
from mobilellm.pipeline.rank_processes import starts_ranks, train_on_ranks
from mobilellm.pipeline.repeated_data import repeated_data_warning
from mobilellm.pipeline.results import Facts
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.start_messages import start_messages
from mobilellm.pipeline.summary import recording
from mobilellm.run_folder import check_may_start, is_finished, read_summary
from mobilellm.run_lock import lock_run_folder
from mobilellm.training.ranks import (
    broadcast_from_first,
    check_same_configuration,
    is_first_process,
    join_process_group,
    leave_process_group,
    run_on_first_rank,
)

logger = logging.getLogger(__name__)


def train(cfg: DictConfig) -> Facts:
    """Train one model, or continue its training; with `horizons`, one run per token budget.

    A finished trial of a sweep is not trained again.

    Returns:
        The content of the run's summary.json.

    Raises:
        ValueError, TypeError, FileNotFoundError: an error that the user can correct; raised before
            training starts.
        Stopped: a signal ended the run, which has saved a checkpoint.
    """
    if not cfg.get(HORIZONS):
        return _train_run(cfg)
    *shorter, full = horizon_runs(cfg, plan_run)[1]
    for horizon in shorter:
        if not is_finished(horizon.folder):
            with horizon.as_job():
                _train_run(horizon.config)
    with full.as_job():
        return _train_run(full.config)


def _train_run(cfg: DictConfig) -> Facts:
    """Plan, prepare, probe, fit, and summarise one run."""
    run = plan_run(cfg)
    if run.is_sweep and run.is_finished():
        return read_summary(run.folder) or {}
    check_may_start(run.folder, resume=run.resume)
    if starts_ranks(run):
        # Each of the processes that this one starts calls this function and continues below.
        return train_on_ranks(cfg, run)
    with _joined_ranks(run):
        prepared = prepare(run)
        run, trials = probe_learning_rate(run, prepared)
        with lock_run_folder(run.folder) if is_first_process() else nullcontext():
            # Checked again: another process may have finished the run in the meantime.
            if broadcast_from_first(run.is_sweep and run.is_finished()):
                return read_summary(run.folder) or {}
            run_on_first_rank(partial(check_may_start, run.folder, resume=run.resume))
            with recording(run, prepared, trials) as summary:
                return summary.finish(fit(run, prepared))


@contextmanager
def _joined_ranks(run: Run) -> Iterator[None]:
    """Join the processes of the run, if there are several, into one process group."""
    join_process_group(run.trainer)
    # Each machine resolves `auto` by itself, and all must have the same result.
    resolved = {"device": run.trainer.device_type, "precision": run.trainer.resolved_precision}
    check_same_configuration(run.config | {"resolved": resolved})
    try:
        yield
    except Stopped:
        # All ranks stopped at the same step. After another error they may be at different ones.
        leave_process_group()
        raise
    leave_process_group()


def prepare(run: Run) -> PreparedData:
    """Log how the run starts, prepare its data, and check the run against the data.

    Raises:
        ValueError: the data do not fit the vocabulary of the model or of the teacher, or a split is
            too short.
    """
    if is_first_process():
        for line in start_messages(run):
            logger.info("%s", line)
    prepared = prepare_data(run.data)
    check_prepared(run, prepared)
    begin = begin_of_documents(prepared)
    if is_first_process() and begin is not None:
        logger.info("documents %s (data.add_bos, data.add_eos)", begin)
    if is_first_process() and (warning := repeated_data_warning(run, prepared)) is not None:
        logger.warning("%s", warning)
    return prepared


def check_prepared(run: Run, prepared: PreparedData) -> None:
    """Check the run against its prepared data.

    Raises:
        ValueError: see `prepare`.
    """
    # The embedding may have more rows than the tokenizer has tokens: many models are padded.
    if prepared.vocab_size > run.model.vocab_size:
        raise ValueError(
            f"the tokenizer of {prepared.dir} has {prepared.vocab_size} tokens, more than the "
            f"model's vocab_size={run.model.vocab_size}; use model.vocab_size="
            f"{prepared.vocab_size} or more, or another tokenizer"
        )
    if run.extension is not None:
        check_same_data(run.extension, prepared)
    length, distillation = run.config["sequence_length"], run.parts.distillation
    for split in ("train", "validation"):
        try:
            prepared.windows(split, length)
        except ValueError as error:
            raise ValueError(f"the {split} split: {error}") from None
    if distillation is not None:
        with named_errors("distillation"):
            distillation.check_data(
                prepared,
                vocab_size=run.model.vocab_size,
                sequence_length=length,
                document_mask=run.data.document_mask,
            )
