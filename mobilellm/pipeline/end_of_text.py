"""A new model begins and ends texts with the tokens that its data do."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.models import ModelConfig
from mobilellm.pipeline.given_weights import data_of_run

if TYPE_CHECKING:
    from mobilellm.data import DataConfig

logger = logging.getLogger(__name__)

FIELDS = ("eos_token_id", "bos_token_id")


def with_ids_of_data(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A run's configuration with `model_with_ids`; given weights keep their own.

    Raises:
        FileNotFoundError, ValueError: whatever model, data and teacher refuse.
    """
    model, data = instantiate(cfg.model), data_of_run(cfg)
    found = model if cfg.init_from is not None else model_with_ids(model, data, overrides)
    if found == model:
        return cfg
    merged: Any = OmegaConf.create(OmegaConf.to_container(cfg))
    for name in FIELDS:
        merged.model[name] = getattr(found, name)
    return merged


def model_with_ids(
    model: ModelConfig, data: "DataConfig", overrides: Sequence[str] = ()
) -> ModelConfig:
    """`model` with the end-of-text token of the data, which is the tokenizer's own.

    Documents that are tokenized here stand between end-of-text tokens, so that this is also what a
    text begins with. Those of token ids may have begun with another: where the configuration
    names one, it stays. Data without an end-of-text token change nothing.

    Args:
        model: as configured.
        data: what it is to be trained on.
        overrides: of the command line.

    Raises:
        FileNotFoundError, ValueError: a tokenizer that cannot be read; an id asked for on the
            command line that is not the data's.
    """
    from mobilellm.data.end_of_text import find_eos_token_id

    eos = find_eos_token_id(data)
    if eos < 0:
        return model
    begins_alike = not data.is_tokenized or model.bos_token_id == model.eos_token_id
    wanted = (eos, eos if begins_alike else model.bos_token_id)
    configured = (model.eos_token_id, model.bos_token_id)
    if wanted == configured:
        return model
    for name, id_ in zip(FIELDS, wanted, strict=True):
        for override in overrides:
            key, _, value = override.lstrip("+").partition("=")
            if key == f"model.{name}" and value != str(id_):
                raise ValueError(
                    f"{override} is not what the data say: their documents stand between tokens "
                    f"{eos}; leave it out, the model then has {name}={id_}"
                )
    logger.info(
        "texts end with token %d and begin with token %d, as in the data (the configuration says "
        "%d and %d)", *wanted, *configured,
    )  # fmt: skip
    return replace(model, **dict(zip(FIELDS, wanted, strict=True)))
