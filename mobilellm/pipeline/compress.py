"""Compress a saved model without training it: plan, apply, measure, save."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.launchers.configuration import instantiate
from mobilellm.run_folder import CONFIG
from mobilellm.strict_json import to_json

if TYPE_CHECKING:
    from omegaconf import DictConfig

REPORT = "compression.json"


def compress_folder(cfg: "DictConfig", folder: str | Path, out: str | Path) -> dict[str, Any]:
    """Compress the model in `folder` as conf/compress.yaml says and save it in `out`.

    Args:
        cfg: the composed configuration.
        folder: model, run or Hugging Face folder.
        out: new or empty; gets the model, its tokenizer and compression.json, the report.

    Returns:
        The report.

    Raises:
        ValueError, FileNotFoundError: what does not fit, before any data is read; `out` in use.
    """
    from mobilellm.checkpoint import save_model
    from mobilellm.compressor.tables import plan_table, results_table
    from mobilellm.evaluation.validation import sum_losses
    from mobilellm.export.model_folder import open_model

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is in use and is never overwritten; give a new folder")
    model, tokenizer = open_model(folder)
    callback = _callback(cfg)
    _check_stages(callback)
    callback.recipe.check(model)
    data = _data(cfg, Path(folder), model, tokenizer)
    calibration = data.calibration_batches(callback.calibration_tokens)
    _tell(f"planning on {callback.calibration_tokens:,} tokens")
    plan = callback.recipe.plan(model, calibration)
    _show(plan_table(plan))
    _tell("applying the plan")
    compressed = callback.recipe.apply(model, plan, calibration)
    models = {"dense": model, "compressed": compressed.model}
    models |= _twin(callback.recipe, plan, model, calibration)
    rows = [
        {"model": name, "parameters": _counts(one), "loss": _loss(one, data, sum_losses)}
        for name, one in models.items()
    ]
    if cfg.latency:
        _measure(models, rows, cfg)
    _show(results_table(rows))
    report = {
        "recipe": str(callback.recipe),
        "plan": plan.to_dict(),
        "relative_errors": compressed.errors,
        "models": rows,
        "validation_tokens": data.num_validation_windows * data.sequence_length,
    }
    save_model(compressed.model, out, tokenizer)
    (out / REPORT).write_text(to_json(report) + "\n", encoding="utf-8")
    _tell(f"saved in {out}")
    return report


def _callback(cfg: "DictConfig") -> Any:
    from mobilellm.pipeline.compression import find_compression

    found = find_compression(instantiate(node) for node in cfg.compression.values() if node)
    if found is None:
        from mobilellm.launchers.configuration import config_folder

        names = sorted(path.stem for path in (config_folder() / "compression").glob("*.yaml"))
        raise ValueError(
            "compression=none compresses nothing; use one of "
            + ", ".join(name for name in names if name != "none")
        )
    return found


def _check_stages(callback: Any) -> None:
    if callback.groups is not None:
        raise ValueError(
            "compression groups say what is trained between stages; scripts/compress.py does not "
            "train: leave groups out and name layers, or use scripts/train.py init_from=…"
        )


def _data(cfg: "DictConfig", folder: Path, model: Any, tokenizer: Path | None) -> Any:
    from omegaconf import OmegaConf

    from mobilellm.data import prepare_data
    from mobilellm.training.datamodule import TokenDataModule

    merged: Any = OmegaConf.create(OmegaConf.to_container(cfg))
    merged.model = model.config.to_dict()
    if merged.get("data") is None:
        merged.data = _data_of_run(folder)
    if merged.data.get("tokenizer") is None and tokenizer is not None:
        merged.data.tokenizer = str(tokenizer)
    prepared = prepare_data(instantiate(merged.data))
    if prepared.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of the data has {prepared.vocab_size} pieces, the model "
            f"vocab_size={model.config.vocab_size}; give the model's own: data.tokenizer=…"
        )
    return TokenDataModule(
        prepared,
        sequence_length=min(cfg.sequence_length, model.config.max_position_embeddings),
        micro_batch_size=cfg.micro_batch_size,
        samples_per_step=cfg.micro_batch_size,
        seed=cfg.seed,
        validation_tokens=cfg.validation_tokens,
    )


def _data_of_run(folder: Path) -> Any:
    """What the run was trained on; `folder` is the run's or its model's."""
    from omegaconf import OmegaConf

    for run in (folder, folder.absolute().parent):
        if (run / CONFIG).is_file():
            return OmegaConf.load(run / CONFIG).data
    raise ValueError(
        f"{folder} is no run's folder, so its training data are not known; give data to calibrate "
        "and to measure on, e.g. data=text data.train=corpus/"
    )


def _twin(recipe: Any, plan: Any, model: Any, calibration: Any) -> dict[str, Any]:
    """The low-rank twin at equal parameters, where there is one."""
    from mobilellm.compressor.twin import low_rank_twin

    twin = low_rank_twin(recipe, plan)
    if twin is None:
        return {}
    _tell("fitting the low-rank twin")
    return {"low-rank twin": twin[0].apply(model, twin[1], calibration).model}


def _counts(model: Any) -> dict[str, int]:
    from mobilellm.accounting import count_parameters

    return asdict(count_parameters(model.config))


def _loss(model: Any, data: Any, sum_losses: Any) -> float:
    return sum_losses(model, data.validation_batches()).loss


def _measure(models: Mapping[str, Any], rows: list[dict[str, Any]], cfg: "DictConfig") -> None:
    """Add milliseconds and peak bytes of prefill and decoding, measured in turns."""
    from mobilellm.evaluation.latency import compare_latency

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
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
