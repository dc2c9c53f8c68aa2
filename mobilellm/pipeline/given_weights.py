"""Data for weights that are given: in the tokens that the weights were trained on.

A tokenizer is never trained for them, and another one never taken: its ids would be new to the
weights. Text goes through the folder's own tokenizer.model, or through the one that data.tokenizer
names; token ids are taken as the model's own. Where documents end with another token than the one
the model stops at, the two do not belong together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.distillation.logit_store.store import is_logit_store
from mobilellm.hydra_app.configuration import instantiate

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mobilellm.data import DataConfig


def with_initial_model(cfg: "DictConfig", overrides: Sequence[str]) -> "DictConfig":
    """With `init_from`, the architecture and the tokenizer are those of that folder.

    Raises:
        ValueError: the command line asks for another architecture.
    """
    if cfg.init_from is None:
        if cfg.init_layers is not None:
            raise ValueError("init_layers chooses layers of the model in init_from; give that too")
        return cfg
    from omegaconf import OmegaConf

    from mobilellm.formats.model_folder import open_model
    from mobilellm.models.layer_subset import subset_config

    folder = Path(cfg.init_from)
    if not folder.is_dir():
        raise FileNotFoundError(f"init_from={folder} is no folder; give that of a saved model")
    config = open_model(folder)[0].config
    if cfg.init_layers is not None:
        config = subset_config(config, list(cfg.init_layers))
    asked = [o for o in overrides if o.lstrip("+").startswith(("model=", "model."))]
    if asked and instantiate(cfg.model) != config:
        raise ValueError(
            f"init_from={folder} brings its own architecture, which differs from {', '.join(asked)}"
            "; leave out model=…, or train that model without init_from"
        )
    merged = OmegaConf.create(OmegaConf.to_container(cfg))
    merged.model = {"_target_": "mobilellm.models.ModelConfig", **config.to_dict()}
    tokenizer = own_tokenizer(merged.data, folder, name=f"init_from={folder}")  # pyright: ignore
    if tokenizer is not None:
        merged.data.tokenizer = tokenizer
    return merged  # pyright: ignore[reportReturnType]


def data_of_run(cfg: "DictConfig") -> "DataConfig":
    """A run's data, in the tokens of the weights that are given: of `init_from`, of the teacher.

    Args:
        cfg: with the model of `init_from`, see `with_initial_model`.

    Raises:
        FileNotFoundError, ValueError: whatever the data refuse, and as `data_for_weights`.
    """
    from mobilellm.pipeline.distillation import make_distillation

    data = None
    if cfg.init_from is not None:
        data = data_for_weights(
            cfg.data,
            cfg.init_from,
            eos_token_ids=[cfg.model.eos_token_id],
            name=f"init_from={cfg.init_from}",
        )
    is_given = "_target_" in (cfg.distillation or {})
    distillation = make_distillation(cfg) if is_given else None  # pyright: ignore
    # The dense model is the student itself, and a store is compared with the data themselves.
    teacher = None
    if distillation is not None and not distillation.is_dense:
        teacher = distillation.teacher_folder
    if teacher is not None and not is_logit_store(teacher):
        from mobilellm.distillation.teachers.opening import describe_teacher

        data = data_for_weights(
            cfg.data,
            teacher,
            eos_token_ids=describe_teacher(teacher).eos_token_ids,
            name=f"distillation.teacher={teacher}",
        )
    return instantiate(cfg.data) if data is None else data


def data_for_weights(
    node: Any, folder: str | Path, *, eos_token_ids: Sequence[int], name: str
) -> "DataConfig":
    """The data that a configuration node describes, in the tokens of the model in `folder`.

    Args:
        node: of the group data.
        folder: of the model or its run.
        eos_token_ids: tokens that the model stops at; empty: not known.
        name: how the folder was given, such as `init_from=PATH`.

    Raises:
        ValueError: text, and no tokenizer that the weights were trained with; another tokenizer
            or another end of text than the model's.
    """
    from mobilellm.data.end_of_text import find_eos_token_id

    data = instantiate(node, tokenizer=own_tokenizer(node, folder, name=name))
    eos = find_eos_token_id(data)
    if eos >= 0 and eos_token_ids and eos not in eos_token_ids:
        ends = " or ".join(map(str, eos_token_ids))
        remedy = f"use data.eos_token_id={ends}, or " if data.is_tokenized else ""
        raise ValueError(
            f"{name} stops at token {ends} by its config.json, and documents of the data end with "
            f"token {eos}; {remedy}correct eos_token_id in the model's config.json"
        )
    return data


def own_tokenizer(node: Any, folder: str | Path, *, name: str) -> str | None:
    """What data.tokenizer has to be for the model in `folder`; None: token ids that have none.

    Raises:
        ValueError: as `data_for_weights`.
    """
    from mobilellm.files import TOKENIZER_FILE
    from mobilellm.formats.model_folder import describe_missing_tokenizer, find_tokenizer

    own, given = find_tokenizer(folder), node.get("tokenizer")
    if given is not None:
        if own is not None and not _is_same(own, Path(given)):
            raise ValueError(
                f"data.tokenizer={given} is another than the tokenizer of {name}, whose ids its "
                f"weights know; leave data.tokenizer out, or give {own}"
            )
        return given
    if own is not None:
        return str(own)
    # Given by its name, a tokenizer that does not exist is not read here.
    if instantiate(node, tokenizer=str(Path(folder) / TOKENIZER_FILE)).is_tokenized:
        return None
    raise ValueError(
        f"{name}: {describe_missing_tokenizer(folder)}, and a new one would give the weights ids "
        "that they never saw; give the one that they were trained with, data.tokenizer=PATH, or "
        "token ids made by the model's own tokenizer, data=tokenized_jsonl"
    )


def _is_same(own: Path, given: Path) -> bool:
    """Whether both are the same tokenizer; one that does not exist is refused elsewhere."""
    from mobilellm.data.tokenizer import open_tokenizer, tokenizer_hash

    if not given.is_file() or own.read_bytes() == given.read_bytes():
        return True
    first = tokenizer_hash(open_tokenizer(own, name="the model's tokenizer "))
    return first == tokenizer_hash(open_tokenizer(given))
