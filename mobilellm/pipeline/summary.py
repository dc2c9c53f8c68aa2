"""Writes summary.json: facts known from the configuration, and later the results."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from omegaconf import OmegaConf

from mobilellm.accounting.storage import is_quantized
from mobilellm.checkpoint import save_model
from mobilellm.compression.storage_table import storage_line
from mobilellm.data import PreparedConversations, PreparedData
from mobilellm.data.resolved import data_name
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.data.tokenizers.stated_begin import files_of_begun, files_of_separated
from mobilellm.files import write_text_atomically
from mobilellm.pipeline.adapted_run import save_adapter
from mobilellm.pipeline.fit import Fitted
from mobilellm.pipeline.hydra_job import hydra_job
from mobilellm.pipeline.identity import IDENTITY_VERSION, passive_callbacks
from mobilellm.pipeline.recipe_rule import NOTHING_CHOSEN
from mobilellm.pipeline.results import Facts, LearningRateTrial, describe_model, timestamp
from mobilellm.pipeline.run import Run
from mobilellm.provenance import provenance
from mobilellm.report.ancestry import start_from
from mobilellm.run_folder import (
    CONFIG,
    MODEL,
    read_summary,
    write_summary,
)
from mobilellm.search.matching import matched_facts
from mobilellm.training.divergence import TrainingDiverged
from mobilellm.training.ranks import is_first_process
from mobilellm.training.sharding import check_stored_parameters

logger = logging.getLogger(__name__)

# Kept when a run is resumed, because the folder that it started from may no longer exist.
OF_THE_START = ("started_at", "starts_from")


def describe_run(run: Run, prepared: PreparedData) -> Facts:
    """Facts about a run that are known before its first step.

    Losses are in nats per token.
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
        **describe_model(run.model, length, trained=run.trained_model),
        **_matched(run),
        "sequence_length": length,
        "max_tokens": run.budget.max_tokens,
        "max_steps": run.budget.max_steps,
        "max_seconds": run.budget.max_seconds,
        "tokens_per_step": run.config["tokens_per_step"],
        "optimizer": run.config["optimizer"],
        **(run.rule_choice or NOTHING_CHOSEN).to_dict(),
        "started_at": timestamp(),
        "data": {"name": data_name(run.data), "dir": str(prepared.dir)} | _begin_of_text(prepared),
        "hashes": dict(prepared.hashes),
        "unigram_loss": prepared.baselines["unigram_nats_per_token"],
        "bigram_loss": prepared.baselines["bigram_nats_per_token"],
        **(run.extension.to_dict() if run.extension is not None else {}),
        **provenance(),
    }


def _begin_of_text(prepared: PreparedData) -> Facts:
    """The tokens around documents; nothing for documents with only an end-of-text token."""
    if prepared.bos_token_id is None:
        return {}
    return {"bos_token_id": prepared.bos_token_id, "adds_eos": prepared.adds_eos}


def _matched(run: Run) -> Facts:
    """What the model has in common with others of its budget; nothing for other models."""
    given = run.config["model"]
    if "budget" not in given or run.config["init_from"]:
        return {}
    return {"matched": matched_facts(given, run.model)}


class RunSummary:
    """The summary.json of a run; only the first of several processes writes it.

    Args:
        run: the run.
        prepared: the data of the run.
        trials: the results of the learning-rate probe; None if there was no probe.
    """

    def __init__(
        self, run: Run, prepared: PreparedData, trials: Sequence[LearningRateTrial] | None
    ) -> None:
        """Collect the facts that are known before the first step; nothing is written yet."""
        before = read_summary(run.folder) or {}
        self.run = run
        self.prepared = prepared
        self.is_writer = is_first_process()
        tried = None if trials is None else [asdict(trial) for trial in trials]
        self.facts = describe_run(run, prepared) | {"learning_rates_tried": tried}
        self.facts |= {key: before[key] for key in OF_THE_START if key in before}

    def write(self, further: Mapping[str, object] | None = None) -> None:
        """Add `further` facts and write summary.json."""
        self.facts |= further or {}
        if self.is_writer:
            write_summary(self.run.folder, self.facts)

    def finish(self, fitted: Fitted) -> Facts:
        """Save the model of a finished run, write the results, and return the whole summary."""
        results, folder = fitted.results, self.run.folder
        if fitted.model is not None and results.status == "finished" and self.is_writer:
            check_stored_parameters(fitted.model, "before it is saved")
            if fitted.adapted is not None:
                save_adapter(self.run, fitted.adapted)
            save_model(fitted.model, folder / MODEL, self._tokenizer_files())
        self.write(results.to_dict())
        if results.status == "finished" and self.is_writer:
            losses = (
                (results.val_loss, "nats per token"), (results.val_bits_per_byte, "bits per byte"),
            )  # fmt: skip
            known = [f"{loss:.3f} {unit}" for loss, unit in losses if loss is not None]
            if fitted.model is not None and is_quantized(fitted.model.config):
                bits = 8 * fitted.model.norm.weight.dtype.itemsize
                logger.info("saved %s", storage_line(fitted.model.config, bits))
            logger.info("finished: validation loss %s; %s", ", ".join(known), folder)
        return self.facts

    def _tokenizer_files(self) -> dict[str, bytes] | None:
        """The files of the tokenizer for the folder of the model; None if there is none."""
        if self.prepared.tokenizer_path is None:
            return None
        tokenizer = open_tokenizer(self.prepared.tokenizer_path)
        if isinstance(self.prepared, PreparedConversations):
            # The chat template names the special tokens, which must stay what they are.
            return tokenizer.files()
        model = self.run.model
        if self.prepared.bos_token_id is not None:
            return files_of_begun(tokenizer, adds_eos=self.prepared.adds_eos)
        is_separated = model.bos_token_id == model.eos_token_id
        if is_separated and self.run.config["init_from"] is None:
            return files_of_separated(tokenizer)
        return tokenizer.files()


@contextmanager
def recording(
    run: Run, prepared: PreparedData, trials: Sequence[LearningRateTrial] | None = None
) -> Iterator[RunSummary]:
    """Write config.yaml and summary.json before training, and the reason if training fails."""
    summary = RunSummary(run, prepared, trials)
    if summary.is_writer and (run.changes or not (run.folder / CONFIG).exists()):
        write_text_atomically(run.folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(run.config)))
    summary.write()
    try:
        yield summary
    except BaseException as error:
        summary.write(describe_failure(error))
        raise


def describe_failure(error: BaseException) -> Facts:
    """Facts for summary.json about the error that ended a run."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "stopped", "error": None}
    failed: Facts = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    return failed | ({"diverged": True} if isinstance(error, TrainingDiverged) else {})
