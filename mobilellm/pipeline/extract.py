"""Extracts a smaller model from a saved supernet or from any trained model, and saves it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import save_model
from mobilellm.data.batches import CorpusBatches
from mobilellm.evaluation.validation import sum_losses
from mobilellm.files import write_text_atomically
from mobilellm.formats.model_folder import open_config, open_model, tokenizer_files
from mobilellm.hydra_app.configuration import plain_config
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import PerBlock
from mobilellm.models.layer_subset import layer_subset, subset_config
from mobilellm.paths import check_unused, user_path
from mobilellm.pipeline.compress_data import data_to_compress_on
from mobilellm.pipeline.cut_to_shape import check_cut, cut_most_important
from mobilellm.pipeline.hydra_job import check_effect, hydra_job
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.ranges import Range, check_value
from mobilellm.search.supernet import extract
from mobilellm.search.supernet_shape import SIZES, shape_inside
from mobilellm.strict_json import to_json

logger = logging.getLogger(__name__)

REPORT = "extraction.json"
# Settings of the data on which importance and losses are measured.
OF_DATA = (
    "calibration_tokens", "validation_tokens", "sequence_length", "micro_batch_size", "seed",
    "prepared_dir",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The result; each field is a key of extraction.json."""

    source: str
    """Absolute path of the folder of the larger model."""
    source_hash: str
    units: str
    """`leading` or `important`."""
    layers: tuple[int, ...] | None
    """The layers of the larger model that were taken whole; None: units were cut."""
    model: dict[str, Any]
    """Configuration of the extracted model."""
    parameters: dict[str, Any]
    source_parameters: dict[str, Any]
    val_loss: float | None
    """Nats per token, before any further training; None if no data were read."""
    source_val_loss: float | None
    hashes: dict[str, Any] | None
    """Hashes of the data and the tokenizer; None if no data were read."""


def extract_folder(cfg: DictConfig, folder: str | Path, out: str | Path) -> Extraction:
    """Extract a model of the configured shape from the one in `folder`, and save it in `out`.

    Args:
        cfg: the composed configuration of conf/extract.yaml.
        folder: the folder of a saved model, of a run, or of a Hugging Face model.
        out: a new or empty folder for the model, its tokenizer and the report, extraction.json.

    Raises:
        ValueError, FileNotFoundError: settings, model or data are not valid, or `out` is in use;
            raised before any data is read.
    """
    cfg, folder, out = checked_config("extract", cfg), user_path(folder), user_path(out)
    check_unused("--out", out)
    config = open_config(folder)
    layers = None if cfg.layers is None else tuple(cfg.layers)
    sizes = plain_config(cfg.model)
    shape = shape_of(sizes, config) if layers is None else _of_layers(layers, sizes, config, cfg)
    if cfg.units == "important":
        check_cut(config, shape)
    elif cfg.get("data") is not None:
        raise ValueError(
            "units=leading copies slices and reads no data; leave data=… out, or use "
            "units=important"
        )
    if cfg.units != "important":
        reason = "without units=important, since slices and whole layers are copied without data"
        check_effect(hydra_job().overrides, OF_DATA, reason)
    model, _ = open_model(folder, as_stored=True)
    data = data_to_compress_on(cfg, folder, model) if cfg.units == "important" else None
    if layers is None:
        small, losses = _cut(model, shape, data, cfg)
    else:
        small, losses = layer_subset(model, layers).to(model.norm.weight.dtype), (None, None)
    save_model(small, out, tokenizer_files(folder) or (data and data.prepared.tokenizer_path))
    result = Extraction(
        source=str(Path(folder).absolute()),
        source_hash=model_hash(model),
        units=cfg.units,
        layers=layers,
        model=shape.to_dict(),
        parameters=asdict(count_parameters(shape)),
        source_parameters=asdict(count_parameters(config)),
        val_loss=losses[1],
        source_val_loss=losses[0],
        hashes=None if data is None else dict(data.prepared.hashes),
    )
    write_text_atomically(out / REPORT, to_json(asdict(result)) + "\n")
    for line in summary_lines(result, out):
        logger.info("%s", line)
    return result


def _cut(
    model: MobileLLM, shape: ModelConfig, data: CorpusBatches | None, cfg: DictConfig
) -> tuple[MobileLLM, tuple[float | None, float | None]]:
    """The extracted model, and the validation losses of the whole and of the extracted one."""
    if data is None:
        return extract(model, shape), (None, None)
    dtype = model.norm.weight.dtype
    whole = model.float()  # sums over many tokens would lose precision in 16 bits
    small = cut_most_important(whole, shape, data.calibration(cfg.calibration_tokens))
    before = sum_losses(whole, data.validation()).loss
    after = sum_losses(small, data.validation()).loss
    return small.to(dtype), (before, after)


def _of_layers(
    layers: Sequence[int], sizes: dict[str, Any], config: ModelConfig, cfg: DictConfig
) -> ModelConfig:
    """The shape of a model of whole layers.

    Raises:
        ValueError: a layer does not exist, or a size or a choice of units is given as well.
    """
    given = [f"model.{name}={value}" for name, value in sizes.items() if value is not None]
    given += [f"units={cfg.units}"] if cfg.units != "leading" else []
    if given:
        raise ValueError(
            f"layers={list(layers)} takes whole layers, but {given[0]} cuts units; give one of "
            "them, and cut the result in a second step"
        )
    return subset_config(config, layers, setting="layers")


def shape_of(sizes: dict[str, Any], config: ModelConfig) -> ModelConfig:
    """The shape with the given sizes; those that are None are the model's.

    Args:
        sizes: the node `model` of the configuration.
        config: of the larger model.

    Raises:
        ValueError: no size is given, a size is no whole number above 0, or the model does not
            contain the shape.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    if not given:
        raise ValueError(
            f"no size is given; give at least one of {', '.join(f'model.{n}=…' for n in SIZES)}"
        )
    for name, value in given.items():
        single = name in ("num_blocks", "hidden_size")
        check_value(f"model.{name}", value, int if single else PerBlock, Range(at_least=1))
    return shape_inside(config, **given)


def summary_lines(result: Extraction, out: Path) -> list[str]:
    """What was made, in sentences."""
    own, whole = result.parameters, result.source_parameters
    lines = [
        f"{out}: {own['stored']:,} parameters ({own['body']:,} in the body), "
        f"{own['stored'] / whole['stored']:.1%} of {whole['stored']:,}"
    ]
    if result.val_loss is not None:
        lines.append(
            f"validation loss {result.val_loss:.4f} nats per token, of the whole model "
            f"{result.source_val_loss:.4f}; a short training recovers much of it: mobilellm train "
            f"init_from={out} distillation=forward_kl distillation.teacher={result.source}"
        )
    return lines
