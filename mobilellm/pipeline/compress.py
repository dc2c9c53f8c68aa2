"""Compresses a saved model without training: plan, apply, measure, save."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import save_model, stored_bytes
from mobilellm.command_names import command_for
from mobilellm.compression.measurement import label_of_original
from mobilellm.compression.recipe import Recipe
from mobilellm.compression.stage_settings import StageSettings
from mobilellm.compression.tables import results_table
from mobilellm.data.batches import CorpusBatches
from mobilellm.evaluation.latency import compare_latency
from mobilellm.evaluation.untrained import warn_if_untrained
from mobilellm.evaluation.validation import sum_losses
from mobilellm.files import write_text_atomically
from mobilellm.formats.model_folder import open_model
from mobilellm.hydra_app.configuration import config_folder
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.paths import check_writable, user_path
from mobilellm.pipeline.compress_data import data_to_compress_on
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.pipeline.recipe import make_recipe
from mobilellm.strict_json import to_json

REPORT = "compression.json"
# The plan, kept beside the report until that is written, so that an interrupted search continues.
PLAN = "plan.json"


def compress_folder(cfg: DictConfig, folder: str | Path, out: str | Path) -> dict[str, Any]:
    """Compress the model in `folder` and save it in `out`.

    Args:
        cfg: the composed configuration of conf/compress.yaml.
        folder: model, run or Hugging Face folder.
        out: new or empty folder for the model, its tokenizer and the report, compression.json.

    Returns:
        The report.

    Raises:
        ValueError, FileNotFoundError: settings, model or data are not valid, or `out` is in use;
            raised before any data is read.
    """
    cfg, folder, out = checked_config("compress", cfg), user_path(folder), user_path(out)
    _check_out(out)
    model, tokenizer = open_model(folder, as_stored=True)
    stored_type = model.norm.weight.dtype
    model = model.float()  # sums over many tokens would lose precision in 16 bits
    recipe, settings = _recipe(cfg)
    _check_stages(settings)
    recipe.check(model)
    _check_latency(cfg, model)
    data = data_to_compress_on(cfg, folder, model)
    calibration = data.calibration(settings.calibration_tokens)
    made_from = _made_from(cfg, recipe, settings, model, data)
    plan = _saved_plan(out, made_from, recipe)
    if plan is None:
        _tell(f"planning on {settings.calibration_tokens:,} tokens")
        plan = recipe.plan(model, calibration)
        _save_plan(out, plan, made_from)
    _show(plan.table())
    budget_use = recipe.budget_use(model, plan)
    if budget_use is not None:
        _tell(str(budget_use))
    _tell("applying the plan")
    compressed = recipe.apply(model, plan, calibration)
    save_model(compressed.model.to(stored_type), out, tokenizer or data.prepared.tokenizer_path)
    compressed.model.float()  # measured as it was saved
    models = {label_of_original(model.config): model, "compressed": compressed.model}
    models |= _twin(recipe, plan, model, calibration)
    rows = _rows(models, data, cfg, stored_type)
    warn_if_untrained(rows[0]["loss"], model.config.vocab_size, f"the model in {folder}")
    _show(results_table(rows))
    report = {
        "recipe": str(recipe),
        "budget": None if budget_use is None else asdict(budget_use),
        "plan": plan.to_dict(),
        "relative_errors": compressed.errors,
        "models": rows,
        "validation_tokens": data.num_validation_windows * data.sequence_length,
        "sequence_length": data.sequence_length,
        "hashes": dict(data.prepared.hashes),
        "source": str(Path(folder).absolute()),
    }
    write_text_atomically(out / REPORT, to_json(report) + "\n")
    (out / PLAN).unlink(missing_ok=True)  # the report has it
    _tell(f"saved in {out}")
    return report


def _check_out(out: Path) -> None:
    """Check that a folder is empty or holds an interrupted compression.

    Raises:
        ValueError: it has other files.
    """
    check_writable("--out", out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / PLAN).is_file() or (out / REPORT).exists():
        raise ValueError(f"--out {out} is in use and is never overwritten; give a new folder")


def _check_latency(cfg: DictConfig, model: Any) -> None:
    """Check that the measurement of latency fits into the context, before any work is done.

    Raises:
        ValueError: it does not; the message has both numbers.
    """
    context = model.config.max_position_embeddings
    if cfg.latency and not 0 < cfg.decode_tokens < context:
        raise ValueError(
            f"decode_tokens={cfg.decode_tokens} must be at least 1 and leave room for a prompt in "
            f"max_position_embeddings={context}; give fewer, or latency=false"
        )


def _made_from(
    cfg: DictConfig, recipe: Any, settings: StageSettings, model: Any, data: CorpusBatches
) -> dict[str, Any]:
    """Everything that a plan depends on, as plain data."""
    return {
        "recipe": str(recipe),
        "model": model_hash(model),
        "data": dict(data.prepared.hashes),
        "calibration_tokens": settings.calibration_tokens,
        "sequence_length": data.sequence_length,
        "micro_batch_size": cfg.micro_batch_size,
        "seed": cfg.seed,
    }


def _saved_plan(out: Path, made_from: Mapping[str, Any], recipe: Any) -> Any:
    """The plan of an interrupted compression in `out`; None if there is none.

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
            "give a new folder, or the same settings to continue from that plan"
        )
    _tell(f"continuing from the plan in {out / PLAN}")
    return recipe.plan_from_dict(saved["plan"])


def _save_plan(out: Path, plan: Any, made_from: Mapping[str, Any]) -> None:
    """Save the plan as soon as it exists, because a search takes minutes."""
    out.mkdir(parents=True, exist_ok=True)
    values = {"made_from": made_from, "plan": plan.to_dict()}
    write_text_atomically(out / PLAN, to_json(values) + "\n")


def _rows(
    models: Mapping[str, Any], data: CorpusBatches, cfg: DictConfig, stored_type: Any
) -> list[dict[str, Any]]:
    """A row of measurements for each model; `stored_type` is that of their weights on disk."""
    rows = [
        {
            "model": name,
            "parameters": _counts(one),
            "disk_bytes": stored_bytes(one, stored_type),
            "loss": sum_losses(one, data.validation()).loss,
        }
        for name, one in models.items()
    ]
    if cfg.latency:
        _measure(models, rows, cfg)
    return rows


def _recipe(cfg: DictConfig) -> tuple[Recipe, StageSettings]:
    if "_target_" not in cfg.compression:
        names = sorted(path.stem for path in (config_folder() / "compression").glob("*.yaml"))
        raise ValueError(
            "compression=none compresses nothing; use one of "
            + ", ".join(name for name in names if name != "none")
        )
    node: Any = OmegaConf.to_container(cfg.compression, resolve=True)
    return make_recipe(node)


def _check_stages(settings: StageSettings) -> None:
    """Refuse settings for stages: without training, all layers are compressed at once.

    Raises:
        ValueError: such a setting is given; the message names it.
    """
    given = {
        "groups": settings.groups,
        "num_stages": settings.resolved_num_stages,
        "order": settings.resolved_order,
        "first_start": settings.first_start,
        "recovery_share": settings.recovery_share,
    }
    usual = {"groups": None, "num_stages": 1, "order": "forward", "first_start": 0,
             "recovery_share": None}  # fmt: skip
    for name, value in given.items():
        if value != usual[name]:
            raise ValueError(
                f"{name}={value} is about stages of compression with training between them, and "
                f"{command_for('compress')} does not train: leave out {name}, or use "
                f"{command_for('train')} init_from=…"
            )


def _twin(recipe: Any, plan: Any, model: Any, calibration: Any) -> dict[str, Any]:
    """The low-rank model with equally many parameters, for comparison, if there is one."""
    twin = recipe.low_rank_twin(plan)
    if twin is None:
        return {}
    _tell("fitting the low-rank model for comparison")
    return {"low-rank twin": twin[0].apply(model, twin[1], calibration).model}


def _counts(model: Any) -> dict[str, int]:
    return asdict(count_parameters(model.config))


def _measure(models: Mapping[str, Any], rows: list[dict[str, Any]], cfg: DictConfig) -> None:
    """Add the time and peak memory of prefill and decoding; the models are measured in turns."""
    _tell("measuring prefill and decoding")
    context = min(model.config.max_position_embeddings for model in models.values())
    prefill = min(cfg.prefill_tokens, context - cfg.decode_tokens)
    measured = compare_latency(
        dict(models), prefill_tokens=prefill, decode_tokens=cfg.decode_tokens
    )
    by_name = {row["model"]: row for row in measured}
    for row in rows:
        row |= {k: v for k, v in by_name[row["model"]].items() if k not in row}


def _show(table: Any) -> None:
    Console(width=None if sys.stdout.isatty() else 80, highlight=False).print(table)


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
