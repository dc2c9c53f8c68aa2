"""Compresses a saved model without training: plan, apply, measure, save."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from omegaconf import DictConfig
from rich.table import Table

from mobilellm.accounting import count_parameters
from mobilellm.accounting.storage import is_quantized
from mobilellm.checkpoint import save_model, stored_bytes
from mobilellm.cli.console import make_console
from mobilellm.command_names import command_for
from mobilellm.compression.measurement import label_of_original
from mobilellm.compression.memory_forecast import compression_memory, memory_text
from mobilellm.compression.plan import Plan
from mobilellm.compression.recipe import Batch, Recipe
from mobilellm.compression.stage_settings import StageSettings
from mobilellm.compression.storage_table import embedding_alternative, storage_table
from mobilellm.compression.tables import results_table
from mobilellm.data.batches import CorpusBatches
from mobilellm.evaluation.latency import compare_latency
from mobilellm.evaluation.untrained import warn_if_untrained
from mobilellm.evaluation.validation import sum_losses
from mobilellm.files import write_text_atomically
from mobilellm.formats.model_folder import open_model, tokenizer_files
from mobilellm.hydra_app.configuration import config_folder, plain_config
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.models import MobileLLM
from mobilellm.paths import check_unused, user_path
from mobilellm.pipeline.compress_data import data_to_compress_on
from mobilellm.pipeline.compress_report import CompressionReport, ModelResults
from mobilellm.pipeline.device import check_device
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.pipeline.recipe import make_recipe
from mobilellm.provenance import command_line
from mobilellm.strict_json import to_json

REPORT = "compression.json"
# Kept until the report is written, so that the same command can continue after an interruption.
PLAN = "plan.json"

PlanT = TypeVar("PlanT", bound=Plan)


def compress_folder(cfg: DictConfig, folder: str | Path, out: str | Path) -> CompressionReport:
    """Compress the model in `folder` and save it in `out`.

    Args:
        cfg: the composed configuration of conf/compress.yaml.
        folder: the folder of a saved model, of a run, or of a Hugging Face model.
        out: a new or empty folder for the model, its tokenizer and the report, compression.json.

    Returns:
        The report.

    Raises:
        ValueError, FileNotFoundError: settings, model or data are not valid, or `out` is in use;
            raised before any data is read.
    """
    cfg, folder, out = checked_config("compress", cfg), user_path(folder), user_path(out)
    # With a plan and without a report, it holds an interrupted compression, which continues.
    check_unused("--out", out, own=None if (out / REPORT).exists() else PLAN)
    check_device(cfg.device, "device=cpu")
    model, _ = open_model(folder, as_stored=True)
    stored_dtype = model.norm.weight.dtype
    # Sums over many tokens would lose precision in 16 bits.
    model = model.float().to(torch.device(cfg.device))
    recipe, settings = _build_recipe(cfg)
    _check_single_stage(settings)
    if recipe.needs_training:
        raise ValueError(
            f"{type(recipe).__name__} has no effect without training; use {command_for('train')} "
            "init_from=…, or compression=quantize, gptq or awq to quantize without training"
        )
    recipe.check(model)
    _check_latency(cfg, model)
    _log(memory_text(compression_memory(recipe, model.config, settings.calibration_tokens)))
    data = data_to_compress_on(cfg, folder, model)
    calibration = data.calibration(settings.calibration_tokens)
    plan = _make_or_load_plan(cfg, out, recipe, settings, model, data, calibration)
    _print(plan.table())
    budget_use = recipe.budget_use(model, plan)
    if budget_use is not None:
        _log(str(budget_use))
    _log("applying the plan")
    compressed = recipe.apply(model, plan, calibration)
    files = tokenizer_files(folder) or data.prepared.tokenizer_path
    save_model(compressed.model.to(stored_dtype), out, files)
    compressed.model.float()  # measured with the weights as they were saved
    models = {label_of_original(model.config): model, "compressed": compressed.model}
    models |= _low_rank_twin(recipe, plan, model, calibration) if cfg.low_rank_twin else {}
    results = _measure(models, data, cfg, stored_dtype)
    warn_if_untrained(results[0].loss, model.config.vocab_size, f"the model in {folder}")
    _print(results_table([result.to_dict() for result in results]))
    float_bits = 8 * stored_dtype.itemsize
    if is_quantized(compressed.model.config):
        _print(storage_table(compressed.model.config, float_bits))
        _log(embedding_alternative(compressed.model.config, float_bits))
    report = CompressionReport(
        recipe=str(recipe),
        budget=budget_use,
        plan=plan,
        relative_errors=compressed.errors,
        refined=compressed.refined,
        models=results,
        validation_tokens=data.num_validation_windows * data.sequence_length,
        sequence_length=data.sequence_length,
        hashes=dict(data.prepared.hashes),
        source=str(Path(folder).absolute()),
        command=command_line(),
    )
    write_text_atomically(out / REPORT, to_json(report.to_dict()) + "\n")
    (out / PLAN).unlink(missing_ok=True)  # the report contains it
    _log(f"saved in {out}")
    return report


def _check_latency(cfg: DictConfig, model: MobileLLM) -> None:
    """Check before any work that the tokens of the latency measurement fit into the context.

    Raises:
        ValueError: they do not; the message has both numbers.
    """
    context = model.config.max_position_embeddings
    if cfg.latency and not 0 < cfg.decode_tokens < context:
        raise ValueError(
            f"decode_tokens={cfg.decode_tokens} must be at least 1 and leave room for a prompt in "
            f"max_position_embeddings={context}; use fewer tokens, or latency=false"
        )


def _make_or_load_plan(
    cfg: DictConfig,
    out: Path,
    recipe: Recipe[PlanT],
    settings: StageSettings,
    model: MobileLLM,
    data: CorpusBatches,
    calibration: Sequence[Batch],
) -> PlanT:
    """The plan that an interrupted compression saved in `out`, or a new one, which is saved."""
    made_from = {
        "recipe": str(recipe),
        "model": model_hash(model),
        "data": dict(data.prepared.hashes),
        "calibration_tokens": settings.calibration_tokens,
        "sequence_length": data.sequence_length,
        "micro_batch_size": cfg.micro_batch_size,
        "seed": cfg.seed,
    }
    plan = _load_plan(out, made_from, recipe)
    if plan is None:
        _log(f"planning on {settings.calibration_tokens:,} tokens")
        plan = recipe.plan(model, calibration)
        # Saved at once, because a search takes minutes.
        out.mkdir(parents=True, exist_ok=True)
        values = {"made_from": made_from, "plan": plan.to_dict()}
        write_text_atomically(out / PLAN, to_json(values) + "\n")
    return plan


def _load_plan(out: Path, made_from: Mapping[str, object], recipe: Recipe[PlanT]) -> PlanT | None:
    """The plan of an interrupted compression in `out`; None if there is none.

    Args:
        out: the folder of the result.
        made_from: everything that the plan depends on.
        recipe: the recipe that made the plan.

    Raises:
        ValueError: it is the plan of another compression; the message names the differences.
    """
    if not (out / PLAN).exists():
        return None
    saved = json.loads((out / PLAN).read_text(encoding="utf-8"))
    differing = [key for key, value in made_from.items() if saved["made_from"].get(key) != value]
    if differing:
        raise ValueError(
            f"{out / PLAN} is the plan of another compression ({', '.join(differing)} differ); "
            "give a new folder, or use the same settings to continue from that plan"
        )
    _log(f"continuing from the plan in {out / PLAN}")
    return recipe.plan_from_dict(saved["plan"])


def _build_recipe(cfg: DictConfig) -> tuple[Recipe, StageSettings]:
    if "_target_" not in cfg.compression:
        names = sorted(path.stem for path in (config_folder() / "compression").glob("*.yaml"))
        raise ValueError(
            "compression=none compresses nothing; use one of "
            + ", ".join(name for name in names if name != "none")
        )
    return make_recipe(plain_config(cfg.compression))


def _check_single_stage(settings: StageSettings) -> None:
    """Check that all layers are compressed at once, because nothing is trained in between.

    Raises:
        ValueError: a setting asks for several stages; the message names it.
    """
    given = {
        "groups": settings.groups,
        "num_stages": settings.resolved_num_stages,
        "order": settings.resolved_order,
        "first_start": settings.first_start,
        "recovery_share": settings.recovery_share,
    }
    single = {"groups": None, "num_stages": 1, "order": "forward", "first_start": 0,
              "recovery_share": None}  # fmt: skip
    for name, value in given.items():
        if value != single[name]:
            raise ValueError(
                f"{name}={value} describes stages of compression with training between them, and "
                f"{command_for('compress')} does not train: leave out {name}, or use "
                f"{command_for('train')} init_from=…"
            )


def _low_rank_twin(
    recipe: Recipe[PlanT], plan: PlanT, model: MobileLLM, calibration: Sequence[Batch]
) -> dict[str, MobileLLM]:
    """A low-rank model with as many parameters, for comparison, if the recipe has one."""
    twin = recipe.low_rank_twin(plan)
    if twin is None:
        return {}
    _log("fitting the low-rank model for comparison")
    return {"low-rank twin": twin[0].apply(model, twin[1], calibration).model}


def _measure(
    models: Mapping[str, MobileLLM],
    data: CorpusBatches,
    cfg: DictConfig,
    stored_dtype: torch.dtype,
) -> tuple[ModelResults, ...]:
    """Measure each model; on disk, its weights have the type `stored_dtype`."""
    losses = {name: sum_losses(model, data.validation()).loss for name, model in models.items()}
    latencies = _measure_latency(models, cfg) if cfg.latency else {}
    return tuple(
        ModelResults(
            model=name,
            parameters=count_parameters(model.config),
            disk_bytes=stored_bytes(model, stored_dtype),
            loss=losses[name],
            latency=latencies.get(name, {}),
        )
        for name, model in models.items()
    )


def _measure_latency(
    models: Mapping[str, MobileLLM], cfg: DictConfig
) -> dict[str, dict[str, float | None]]:
    """Time and peak memory of prefill and decoding, by the names of the models."""
    _log("measuring prefill and decoding")
    context = min(model.config.max_position_embeddings for model in models.values())
    rows = compare_latency(
        models,
        prefill_tokens=min(cfg.prefill_tokens, context - cfg.decode_tokens),
        decode_tokens=cfg.decode_tokens,
    )
    return {row.pop("model"): row for row in rows}


def _print(table: Table) -> None:
    make_console(80).print(table)


def _log(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
