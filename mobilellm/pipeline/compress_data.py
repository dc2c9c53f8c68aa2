"""The data for calibrating and measuring the compression of a saved model."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mobilellm.data import prepare_data
from mobilellm.data.batches import CorpusBatches
from mobilellm.data.overview import begin_of_documents
from mobilellm.formats.model_folder import find_tokenizer
from mobilellm.models import MobileLLM
from mobilellm.pipeline.tokens import data_for_weights
from mobilellm.run_folder import CONFIG

logger = logging.getLogger(__name__)


def data_to_compress_on(cfg: DictConfig, folder: Path, model: MobileLLM) -> CorpusBatches:
    """The data of the configuration or, by default, of the run that trained the model.

    Args:
        cfg: the composed configuration of conf/compress.yaml.
        folder: the folder of the model or its run.
        model: the model in `folder`.

    Raises:
        FileNotFoundError, ValueError: no data are given and `folder` is not part of a run, or the
            tokenizer of the data is not that of the model.
    """
    merged = DictConfig(OmegaConf.to_container(cfg))
    merged.model = model.config.to_dict()
    if merged.get("data") is None:
        merged.data = _data_of_run(folder)
        if find_tokenizer(folder) is not None:
            # Use the copy in the run's folder, because the original file may no longer exist.
            merged.data.tokenizer = None
    ends = (model.config.eos_token_id,)
    prepared = prepare_data(
        data_for_weights(merged.data, folder, eos_token_ids=ends, name=f"MODEL_DIR {folder}")
    )
    if prepared.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of the data has {prepared.vocab_size} tokens, more than the model's "
            f"vocab_size={model.config.vocab_size}; give the model's tokenizer, data.tokenizer=PATH"
        )
    begin = begin_of_documents(prepared)
    if begin is not None:
        logger.info("documents %s (data.add_bos, data.add_eos)", begin)
    return CorpusBatches(
        prepared=prepared,
        sequence_length=min(cfg.sequence_length, model.config.max_position_embeddings),
        micro_batch_size=cfg.micro_batch_size,
        seed=cfg.seed,
        validation_tokens=cfg.validation_tokens,
    )


def _data_of_run(folder: Path) -> DictConfig:
    """The data configuration of the run whose folder, or whose model's folder, is given."""
    for run in (folder, folder.absolute().parent):
        if (run / CONFIG).is_file():
            return DictConfig(OmegaConf.load(run / CONFIG)).data
    raise ValueError(
        f"{folder} is not the folder of a run, so its training data are not known; give data for "
        "calibration and measurement, e.g. data=text data.train=corpus/"
    )
