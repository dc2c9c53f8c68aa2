"""Ensures that a model and its data use the same token ids.

Existing weights (of `init_from`, of a teacher, or of a model to compress) need the tokenizer that
they were trained with. Text is therefore tokenized with the tokenizer in the model's folder, or
with the one that data.tokenizer names; data that consist of token ids are assumed to come from the
model's tokenizer. Documents get the begin- and end-of-text tokens that the weights were trained
with. An end-of-text token that differs between the model and the data is an error. A new model gets
the special tokens of its data.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mobilellm.data import DataConfig
from mobilellm.data.document_tokens import DocumentTokens, document_tokens, stated_tokens
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.distillation.logit_store.store import is_logit_store
from mobilellm.distillation.teachers.opening import describe_teacher
from mobilellm.files import TOKENIZER_FILE
from mobilellm.formats.model_folder import (
    describe_missing_tokenizer,
    find_tokenizer,
    open_config,
    reads_bos_by_default,
)
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.models import ModelConfig
from mobilellm.models.layer_subset import subset_config
from mobilellm.run_settings import Config

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("eos_token_id", "bos_token_id")


def with_initial_model(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with the architecture and the tokenizer of the model in `init_from`.

    Args:
        cfg: the configuration; without `init_from` it is returned unchanged.
        overrides: the overrides of the command line.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the overrides describe another architecture.
    """
    if cfg.init_from is None:
        if cfg.init_layers is not None:
            raise ValueError(
                "init_layers selects layers of the model in init_from, which is null; set "
                "init_from=MODEL_DIR"
            )
        return cfg
    folder = Path(cfg.init_from)
    if not folder.is_dir():
        raise FileNotFoundError(f"init_from={folder} is not a folder; give that of a saved model")
    config = open_config(folder)
    if cfg.init_layers is not None:
        config = subset_config(config, list(cfg.init_layers))
    given = [o for o in overrides if o.lstrip("+").startswith(("model=", "model."))]
    if given and instantiate(cfg.model) != config:
        raise ValueError(
            f"init_from={folder} brings its own architecture, which differs from {', '.join(given)}"
            "; leave out model=…, or train that model without init_from"
        )
    merged = DictConfig(OmegaConf.to_container(cfg))
    merged.model = {"_target_": "mobilellm.models.ModelConfig", **config.to_dict()}
    tokenizer = own_tokenizer(merged.data, folder, name=f"init_from={folder}")
    if tokenizer is not None:
        merged.data.tokenizer = tokenizer
    return merged


def with_document_tokens(cfg: DictConfig, data: DataConfig) -> DictConfig:
    """The configuration with the tokens that are put around documents, as plain values.

    Args:
        cfg: the configuration.
        data: the data of the run, as `data_of_run` returns them.
    """
    around = document_tokens(data)
    values = {"add_bos": around.bos_token_id is not None or None, "add_eos": around.adds_eos}
    missing = {name: value for name, value in values.items() if cfg.data.get(name, 0) is None}
    if all(value is None for value in missing.values()):
        return cfg
    merged = DictConfig(OmegaConf.to_container(cfg))
    for name, value in missing.items():
        merged.data[name] = value
    return merged


def with_ids_of_data(cfg: DictConfig, data: DataConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with the special tokens of the data; weights of `init_from` keep theirs.

    Raises:
        FileNotFoundError, ValueError: the model is not valid, or see `model_with_ids`.
    """
    if cfg.init_from is not None:
        return cfg
    model = instantiate(cfg.model)
    found = model_with_ids(model, data, overrides)
    if found == model:
        return cfg
    merged = DictConfig(OmegaConf.to_container(cfg))
    for name in SPECIAL_TOKENS:
        merged.model[name] = getattr(found, name)
    return merged


def model_with_ids(
    model: ModelConfig, data: DataConfig, overrides: Sequence[str] = ()
) -> ModelConfig:
    """`model` with the begin- and end-of-text tokens of its data.

    Documents that this project tokenizes are separated by end-of-text tokens, so that each document
    also begins after one, unless a begin-of-text token is put before each. Documents that are given
    as token ids may begin with another token; if the configuration sets a different bos_token_id,
    it is kept. If the data have no end-of-text token, the model is returned unchanged.

    Args:
        model: the configured model.
        data: the training data.
        overrides: the overrides of the command line.

    Raises:
        FileNotFoundError, ValueError: the tokenizer cannot be read, or an override sets another id
            than that of the data.
    """
    around = document_tokens(data)
    eos = around.eos_token_id
    if eos < 0:
        return model
    ids = {"eos_token_id": eos, "bos_token_id": _begin(around, data, model)}
    configured = {name: getattr(model, name) for name in SPECIAL_TOKENS}
    if ids == configured:
        return model
    for name, id_ in ids.items():
        for override in overrides:
            key, _, value = override.lstrip("+").partition("=")
            if key == f"model.{name}" and value != str(id_):
                raise ValueError(
                    f"{override} contradicts the data, whose documents {_described(around)}; "
                    f"leave it out, the model then has {name}={id_}"
                )
    logger.info(
        "texts end with token %d and begin with token %d, as in the data (the configuration says "
        "%d and %d)", *ids.values(), *configured.values(),
    )  # fmt: skip
    return replace(model, **ids)


def _begin(around: DocumentTokens, data: DataConfig, model: ModelConfig) -> int:
    """The token after which a document begins."""
    if around.bos_token_id is not None:
        return around.bos_token_id
    is_one_token = not data.is_tokenized or model.bos_token_id == model.eos_token_id
    return around.eos_token_id if is_one_token else model.bos_token_id


def _described(around: DocumentTokens) -> str:
    if around.bos_token_id is None:
        return f"are separated by token {around.eos_token_id}"
    ends = f" and end with token {around.eos_token_id}" if around.adds_eos else ""
    return f"begin with token {around.bos_token_id}{ends}"


def data_of_run(cfg: DictConfig, teacher: str | Path | None) -> DataConfig:
    """The data of a run, with the tokenizer of `init_from` or of the teacher, if there is one.

    Args:
        cfg: the configuration as `with_initial_model` returns it.
        teacher: the folder of the teacher; None if there is none, or if it is the student itself.

    Raises:
        FileNotFoundError, ValueError: the data are not valid, or see `data_for_weights`.
    """
    data: DataConfig | None = None
    if cfg.init_from is not None:
        data = data_for_weights(
            cfg.data,
            cfg.init_from,
            eos_token_ids=[cfg.model.eos_token_id],
            name=f"init_from={cfg.init_from}",
        )
    # A logit store is compared with the data after they have been prepared.
    if teacher is not None and not is_logit_store(teacher):
        data = data_for_weights(
            cfg.data,
            teacher,
            eos_token_ids=describe_teacher(teacher).eos_token_ids,
            name=f"distillation.teacher={teacher}",
        )
    return instantiate(cfg.data) if data is None else data


def data_for_weights(
    node: Config | DictConfig,
    folder: str | Path,
    *,
    eos_token_ids: Sequence[int],
    name: str,
) -> DataConfig:
    """The data that a configuration node describes, with the tokenizer of the model in `folder`.

    Args:
        node: the node `data` of a configuration.
        folder: the folder of the model or its run.
        eos_token_ids: the model's end-of-text tokens; empty if they are not known.
        name: how the folder was given, such as `init_from=PATH`, for error messages.

    Raises:
        ValueError: the data are text and the tokenizer of the weights is not known, or the
            tokenizer or the end-of-text token differs from the model's.
    """
    data: DataConfig = instantiate(node, tokenizer=own_tokenizer(node, folder, name=name))
    data = _as_trained(data, folder)
    eos = document_tokens(data).eos_token_id
    if eos >= 0 and eos_token_ids and eos not in eos_token_ids:
        ends = " or ".join(map(str, eos_token_ids))
        remedy = f"use data.eos_token_id={ends}, or " if data.is_tokenized else ""
        raise ValueError(
            f"{name} stops at token {ends} by its config.json, and documents of the data end with "
            f"token {eos}; {remedy}correct eos_token_id in the model's config.json"
        )
    return data


def _as_trained(data: DataConfig, folder: str | Path) -> DataConfig:
    """The data with the begin- and end-of-text tokens that the model in `folder` was trained with.

    The settings of its tokenizer name them; without settings, see `reads_bos_by_default`.
    """
    if data.is_tokenized or data.tokenizer is None or data.add_bos is not None:
        return data
    tokenizer = open_tokenizer(Path(data.tokenizer))
    adds_bos, adds_eos = stated_tokens(tokenizer)
    if tokenizer.adds_bos is None:
        adds_bos = reads_bos_by_default(folder, tokenizer.bos_id)
    if not adds_bos:
        return data
    ends = data.add_eos if data.add_eos is not None or data.always_ends else adds_eos
    return replace(data, add_bos=True, add_eos=ends)


def own_tokenizer(node: Config | DictConfig, folder: str | Path, *, name: str) -> str | None:
    """The value of data.tokenizer for the model in `folder`; None if the data are token ids.

    Raises:
        ValueError: see `data_for_weights`.
    """
    own, given = find_tokenizer(folder), node.get("tokenizer")
    if given is not None:
        if own is not None and not _is_same_tokenizer(own, Path(given)):
            raise ValueError(
                f"data.tokenizer={given} differs from the tokenizer of {name}, whose token ids the "
                f"weights were trained with; leave data.tokenizer out, or give {own}"
            )
        return given
    if own is not None:
        return str(own)
    # The path is not read; it only prevents the data from training a tokenizer.
    if instantiate(node, tokenizer=str(Path(folder) / TOKENIZER_FILE)).is_tokenized:
        return None
    raise ValueError(
        f"{name}: {describe_missing_tokenizer(folder)}, and the token ids of a new one would mean "
        "nothing to the weights; give the one that they were trained with, data.tokenizer=PATH, or "
        "token ids made by the model's own tokenizer, data=tokenized_jsonl"
    )


def _is_same_tokenizer(own: Path, given: Path) -> bool:
    """Whether two files contain the same tokenizer; a missing file is reported elsewhere."""
    if not given.is_file() or own.read_bytes() == given.read_bytes():
        return True
    first = open_tokenizer(own, name="the model's tokenizer ").fingerprint()
    return first == open_tokenizer(given).fingerprint()
