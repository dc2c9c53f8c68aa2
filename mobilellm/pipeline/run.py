"""A whole run: prepare data, probe the learning rate where asked, train, keep the model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.cli.command import Stopped
from mobilellm.files import write_text_atomically
from mobilellm.pipeline.beginning import beginning
from mobilellm.pipeline.distillation import check_teacher
from mobilellm.pipeline.extension import check_same_data
from mobilellm.pipeline.plan import Run, plan_run
from mobilellm.pipeline.settings import settings_lines
from mobilellm.pipeline.summary import describe_run
from mobilellm.run_folder import (
    CONFIG,
    MODEL,
    check_may_start,
    locked,
    read_summary,
    write_summary,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mobilellm.data import PreparedData

logger = logging.getLogger(__name__)


def train(cfg: "DictConfig") -> dict[str, Any]:
    """Train one model, or continue its training; a finished trial of a sweep is left alone.

    Returns:
        The run's summary, as in its summary.json.

    Raises:
        ValueError, TypeError, FileNotFoundError: what the user can put right, before work starts.
        Stopped: a signal ended the run after it saved.
    """
    from mobilellm.data import prepare_data
    from mobilellm.pipeline.probe import best_learning_rate, describe_choice, try_learning_rates
    from mobilellm.pipeline.rank_processes import starts_ranks, train_on_ranks
    from mobilellm.training.ranks import agreed, first_does, is_first_process

    run = plan_run(cfg)
    if run.is_sweep and run.is_finished():
        return read_summary(run.folder) or {}
    check_may_start(run.folder, resume=run.resume)
    if starts_ranks(run):
        return train_on_ranks(cfg, run)
    with _joined_ranks(run):
        if is_first_process():
            for line in (*settings_lines(run.overrides), *beginning(run)):
                logger.info("%s", line)
        prepared = prepare_data(run.data)
        check_prepared(run, prepared)
        check_teacher(run, prepared)
        tried = None
        if run.config["learning_rate_probe"]:
            tried = try_learning_rates(run, prepared)
            run = replace(run, config=_with_learning_rate(run.config, best_learning_rate(tried)))
            if is_first_process():
                logger.info("%s", describe_choice(tried))
        with locked(run.folder) if is_first_process() else nullcontext():
            # Asked again: an equal command may have finished the run meanwhile.
            if agreed(run.is_sweep and run.is_finished()):
                return read_summary(run.folder) or {}
            first_does(partial(check_may_start, run.folder, resume=run.resume))
            return train_prepared(run, prepared, tried)


@contextmanager
def _joined_ranks(run: Run) -> Iterator[None]:
    """One process group for as long as the run takes, where it has several processes."""
    from mobilellm.training.ranks import check_same_configuration, join_ranks, leave_ranks

    join_ranks(run.trainer)
    # One answer of all machines to what `auto` leaves to each.
    resolved = {"device": run.trainer.device_type, "precision": run.trainer.resolved_precision}
    check_same_configuration(run.config | {"resolved": resolved})
    try:
        yield
    except Stopped:
        # All ranks stopped at one step. After any other error they may be anywhere.
        leave_ranks()
        raise
    leave_ranks()


def check_prepared(run: Run, prepared: "PreparedData") -> None:
    """What only the data itself can tell.

    Raises:
        ValueError: another vocabulary, or a split that makes no window.
    """
    # Fewer tokens than rows are fine: many models pad their table.
    if prepared.vocab_size > run.model.vocab_size:
        raise ValueError(
            f"the tokenizer of {prepared.dir} has {prepared.vocab_size} pieces, more than the "
            f"model's vocab_size={run.model.vocab_size}; use model.vocab_size="
            f"{prepared.vocab_size} or more, or another tokenizer"
        )
    if run.extension is not None:
        check_same_data(run.extension, prepared)
    length = run.config["sequence_length"]
    for split in ("train", "validation"):
        try:
            prepared.windows(split, length)
        except ValueError as error:
            raise ValueError(f"the {split} split: {error}") from None


def train_prepared(
    run: Run, prepared: "PreparedData", tried: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Train on prepared data, from the last checkpoint where there is one.

    Args:
        run: what to train.
        prepared: the data.
        tried: learning rates and the validation losses they led to, for the summary.

    Returns:
        The summary.
    """
    from mobilellm.pipeline.fit import fit
    from mobilellm.training.ranks import is_first_process

    before = read_summary(run.folder) or {}
    summary = describe_run(run, prepared) | {"learning_rates_tried": tried}
    # What was known at the start: the folder that a run began from may be gone when it goes on.
    summary |= {key: before[key] for key in ("started_at", "starts_from") if key in before}
    if not is_first_process():
        fit(run, prepared)
        return summary
    _write_config(run)
    write_summary(run.folder, summary)
    try:
        measured = fit(run, prepared)
        model = measured.pop("trained_model")
        if measured["status"] == "finished":
            _save_model(run, prepared, model)
    except BaseException as error:
        write_summary(run.folder, summary | _ending(error))
        raise
    summary |= measured
    write_summary(run.folder, summary)
    if summary["status"] == "finished":
        losses = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}
        known = [f"{summary[k]:.3f} {unit}" for k, unit in losses.items() if summary[k] is not None]
        logger.info("finished: validation loss %s; %s", ", ".join(known), run.folder)
    return summary


def _ending(error: BaseException) -> dict[str, Any]:
    """What the summary says of a run that `error` ended."""
    from mobilellm.training.divergence import TrainingDiverged

    if isinstance(error, KeyboardInterrupt):
        return {"status": "stopped", "error": None}
    ending: dict[str, Any] = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return ending | ({"diverged": True} if isinstance(error, TrainingDiverged) else {})


def _with_learning_rate(config: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    return config | {"optimizer": config["optimizer"] | {"learning_rate": learning_rate}}


def _write_config(run: Run) -> None:
    from omegaconf import OmegaConf

    if run.changes or not (run.folder / CONFIG).exists():
        write_text_atomically(run.folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(run.config)))


def _save_model(run: Run, prepared: "PreparedData", model: Any) -> None:
    from mobilellm.checkpoint import save_model
    from mobilellm.training.sharding import check_stored_parameters

    check_stored_parameters(model, "before it is saved")
    tokenizer: Path | None = prepared.tokenizer_path
    save_model(model, run.folder / MODEL, tokenizer)
