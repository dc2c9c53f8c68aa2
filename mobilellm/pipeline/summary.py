"""summary.json: facts of the configuration, then the results."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from omegaconf import OmegaConf

from mobilellm.checkpoint import save_model
from mobilellm.data import PreparedData
from mobilellm.data.resolved import data_name
from mobilellm.files import write_text_atomically
from mobilellm.pipeline.fit import Fitted
from mobilellm.pipeline.hydra_job import hydra_job
from mobilellm.pipeline.identity import IDENTITY_VERSION, passive_callbacks
from mobilellm.pipeline.results import Facts, describe_model, timestamp
from mobilellm.pipeline.run import Run
from mobilellm.provenance import provenance
from mobilellm.report.ancestry import start_from
from mobilellm.run_folder import (
    CONFIG,
    MODEL,
    read_summary,
    write_summary,
)
from mobilellm.training.divergence import TrainingDiverged
from mobilellm.training.ranks import is_first_process
from mobilellm.training.sharding import check_stored_parameters

logger = logging.getLogger(__name__)

# Facts about the start that a continued run keeps: the folder that it started from may be gone.
OF_THE_START = ("started_at", "starts_from")


def describe_run(run: Run, prepared: PreparedData) -> Facts:
    """Everything about a run that is known before its first step.

    Counts are of parameters, FLOPs per token, bytes per token; losses in nats per token.
    """
    length = run.config["sequence_length"]
    return {
        "status": "running",
        "error": None,
        "experiment": run.config["experiment_name"],
        "run": run.folder.name,
        "identity": run.identity,
        "identity_version": IDENTITY_VERSION,
        "overrides": list(run.overrides),
        "choices": hydra_job().choices,
        "passive_callbacks": passive_callbacks(run.config),
        "starts_from": start_from(run.config["init_from"]).to_dict(),
        "seed": run.config["seed"],
        **describe_model(run.model, length),
        "sequence_length": length,
        "max_tokens": run.budget.max_tokens,
        "max_steps": run.budget.max_steps,
        "max_seconds": run.budget.max_seconds,
        "tokens_per_step": run.config["tokens_per_step"],
        "optimizer": run.config["optimizer"],
        "started_at": timestamp(),
        "data": {"name": data_name(run.data), "dir": str(prepared.dir)},
        "hashes": dict(prepared.hashes),
        "unigram_loss": prepared.baselines["unigram_nats_per_token"],
        "bigram_loss": prepared.baselines["bigram_nats_per_token"],
        **(run.extension.facts() if run.extension is not None else {}),
        **provenance(),
    }


class RunSummary:
    """The summary.json of a run; only the first of several processes writes it.

    Args:
        run: that trains.
        prepared: its data.
        tried: the learning rates that a probe tried and their validation losses, if there was one.
    """

    def __init__(self, run: Run, prepared: PreparedData, tried: list[Facts] | None) -> None:
        """Collect what is known before the first step; nothing is written yet."""
        before = read_summary(run.folder) or {}
        self.run = run
        self.prepared = prepared
        self.is_writer = is_first_process()
        self.facts = describe_run(run, prepared) | {"learning_rates_tried": tried}
        self.facts |= {key: before[key] for key in OF_THE_START if key in before}

    def write(self, further: Mapping[str, object] | None = None) -> None:
        """Write the facts, with further ones."""
        self.facts |= further or {}
        if self.is_writer:
            write_summary(self.run.folder, self.facts)

    def finish(self, fitted: Fitted) -> Facts:
        """Save the model of a finished run and write the results; returns the whole summary."""
        results, folder = fitted.results, self.run.folder
        if fitted.model is not None and results.status == "finished" and self.is_writer:
            check_stored_parameters(fitted.model, "before it is saved")
            save_model(fitted.model, folder / MODEL, self.prepared.tokenizer_path)
        self.write(results.to_dict())
        if results.status == "finished" and self.is_writer:
            losses = (
                (results.val_loss, "nats per token"), (results.val_bits_per_byte, "bits per byte"),
            )  # fmt: skip
            known = [f"{loss:.3f} {unit}" for loss, unit in losses if loss is not None]
            logger.info("finished: validation loss %s; %s", ", ".join(known), folder)
        return self.facts


@contextmanager
def recording(
    run: Run, prepared: PreparedData, tried: list[Facts] | None = None
) -> Iterator[RunSummary]:
    """Write config.yaml and summary.json before training; if training fails, how it ended."""
    summary = RunSummary(run, prepared, tried)
    if summary.is_writer and (run.changes or not (run.folder / CONFIG).exists()):
        write_text_atomically(run.folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(run.config)))
    summary.write()
    try:
        yield summary
    except BaseException as error:
        summary.write(describe_failure(error))
        raise


def describe_failure(error: BaseException) -> Facts:
    """The facts of summary.json about what ended a run before it finished."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "stopped", "error": None}
    failed: Facts = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return failed | ({"diverged": True} if isinstance(error, TrainingDiverged) else {})
