"""What summary.json says of a run: facts of the configuration, then what was measured."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mobilellm.accounting import (
    count_parameters,
    decode_bytes_per_token,
    flops_per_token,
    kv_cache_bytes_per_token,
)
from mobilellm.models import ModelConfig
from mobilellm.pipeline.identity import IDENTITY_VERSION
from mobilellm.pipeline.plan import Run
from mobilellm.provenance import provenance
from mobilellm.report.ancestry import start_from

if TYPE_CHECKING:
    from mobilellm.data import PreparedData

NAMED_CHOICES = ("compression", "distillation")
"""Groups whose chosen file's name says more than its settings."""


def describe_run(run: Run, prepared: "PreparedData") -> dict[str, Any]:
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
        "choices": chosen_files(),
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
        "data": {"name": run.data.name, "dir": str(prepared.dir)},
        "hashes": dict(prepared.hashes),
        "unigram_loss": prepared.baselines["unigram_nats_per_token"],
        "bigram_loss": prepared.baselines["bigram_nats_per_token"],
        **(run.extension.facts() if run.extension is not None else {}),
        **provenance(),
    }


def chosen_files() -> dict[str, str]:
    """Names of the files that were chosen for the model's treatment, e.g. `distillation: kngpt2`.

    Empty where there is no command line.
    """
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    return {group: str(choices[group]) for group in NAMED_CHOICES if choices.get(group)}


def describe_model(config: ModelConfig, sequence_length: int) -> dict[str, Any]:
    """What follows from the architecture: parameters, FLOPs per token, bytes per token."""
    return {
        "model": config.to_dict(),
        "parameters": asdict(count_parameters(config)),
        "flops_per_token": asdict(flops_per_token(config, sequence_length)),
        "kv_cache_bytes_per_token": kv_cache_bytes_per_token(config),
        "decode_bytes_per_token": decode_bytes_per_token(config, bits=16, context=sequence_length),
    }


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
