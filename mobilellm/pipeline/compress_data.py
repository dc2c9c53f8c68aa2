"""The data for calibrating and measuring the compression of a saved model."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mobilellm.data import prepare_data
from mobilellm.data.batches import CorpusBatches
from mobilellm.formats.model_folder import find_tokenizer
from mobilellm.models import MobileLLM
from mobilellm.pipeline.tokens import data_for_weights
from mobilellm.run_folder import CONFIG


def data_to_compress_on(cfg: DictConfig, folder: Path, model: MobileLLM) -> CorpusBatches:
    """The data that `cfg` describes, or else those of the run, tokenized for the model.

    Args:
        cfg: conf/compress.yaml, composed.
        folder: of the model or its run.
        model: the model in it.

    Raises:
        FileNotFoundError, ValueError: no data are known, or their tokenizer is not the model's.
    """
    merged: Any = OmegaConf.create(OmegaConf.to_container(cfg))
    merged.model = model.config.to_dict()
    if merged.get("data") is None:
        merged.data = _data_of_run(folder)
        if find_tokenizer(folder) is not None:
            # The copy in the run's folder: the given file may no longer exist.
            merged.data.tokenizer = None
    ends = (model.config.eos_token_id,)
    prepared = prepare_data(
        data_for_weights(merged.data, folder, eos_token_ids=ends, name=f"MODEL_DIR {folder}")
    )
    if prepared.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of the data has {prepared.vocab_size} tokens, more than the model's "
            f"vocab_size={model.config.vocab_size}; give the model's own: data.tokenizer=…"
        )
    return CorpusBatches(
        prepared=prepared,
        sequence_length=min(cfg.sequence_length, model.config.max_position_embeddings),
        micro_batch_size=cfg.micro_batch_size,
        seed=cfg.seed,
        validation_tokens=cfg.validation_tokens,
    )


def _data_of_run(folder: Path) -> Any:
    """The data configuration of a run; `folder` is that of the run or of its model."""
    for run in (folder, folder.absolute().parent):
        if (run / CONFIG).is_file():
            return OmegaConf.load(run / CONFIG).data
    raise ValueError(
        f"{folder} is not the folder of a run, so its training data are not known; give data for "
        "calibration and measurement, e.g. data=text data.train=corpus/"
    )
