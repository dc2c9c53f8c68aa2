"""Reads and writes adapters as PEFT does: adapter_config.json and adapter_model.safetensors.

Names are those of the model in `transformers`, in which every layer has matrices of its own. The
format was read from PEFT 0.21 (`peft.utils.save_and_load`, `peft.tuners.lora.config`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilellm.checkpoint import read_json, read_tensors, write_json, write_tensors
from mobilellm.formats.huggingface.config_export import config_to_huggingface
from mobilellm.formats.huggingface.weights import matrix_names
from mobilellm.layers import DENSE
from mobilellm.layers.adapted import AdaptedShape
from mobilellm.layers.adapter_settings import AdapterSettings
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.config import MULTIPLIERS

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_PARTS = {
    "lora_a": "lora_A.weight",
    "lora_b": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
_OUR_PARTS = {theirs: ours for ours, theirs in _PARTS.items()}
# Settings that change what an adapter computes, with the values that this project has.
_UNSUPPORTED = {
    "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    "fan_in_fan_out": False, "lora_bias": False, "layer_replication": None,
    "alora_invocation_tokens": None,
}  # fmt: skip
# Initial values that leave the weights of the base model as they are. With all others, such as
# pissa, PEFT changes the base model whenever it loads the adapter.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


def write_peft(model: MobileLLM, folder: str | Path, *, base: str | None = None) -> None:
    """Write the adapter of a model, which PEFT then loads onto the model in `transformers`.

    Args:
        model: with adapters; it is not changed.
        folder: created if it does not exist; an adapter in it is replaced.
        base: name or path of the model without the adapter in `transformers`; None: it is not
            known, e.g. because that model has not been exported.

    Raises:
        ValueError: PEFT or `transformers` cannot represent the adapter.
        OSError: a file could not be written.
    """
    config, folder = model.config, Path(folder)
    settings = _checked_settings(config)
    adapted = {t: ours for t, ours in matrix_names(config).items() if ours in config.layer_shapes}
    tensors = {}
    for theirs, ours in adapted.items():
        for part, name in _PARTS.items():
            tensor = getattr(model.get_submodule(ours), part)
            if tensor is not None:
                # safetensors cannot store tensors that share memory, as those of shared blocks do.
                tensors[f"{PREFIX}{theirs}.{name}"] = tensor.detach().clone()
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_FILE, tensors)
    alpha = settings.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "target_modules": sorted(adapted),
        **_UNSUPPORTED,
    }
    write_json(folder / CONFIG_FILE, values)


def read_peft_settings(folder: str | Path) -> AdapterSettings:
    """The settings of a saved adapter.

    Raises:
        FileNotFoundError: the folder or its adapter_config.json does not exist.
        ValueError: the file is damaged, or the adapter is of a kind that this project lacks.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG_FILE}; give the folder of an adapter that a run or PEFT wrote"
        )
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type={values.get('peft_type')!r} must be 'LORA'")
    for name, only in _UNSUPPORTED.items():
        if values.get(name) not in (only, None):
            raise ValueError(f"{path}: {name}={values[name]!r} is not supported, only {only!r}")
    if (start := values.get("init_lora_weights")) not in _PLAIN_STARTS:
        raise ValueError(
            f"{path}: with init_lora_weights={start!r}, PEFT changes the weights of the base model "
            "too, so that the adapter alone is not enough; save it with PEFT's save_pretrained(…, "
            "path_initial_model_for_weight_conversion=…), which converts it into a plain adapter"
        )
    try:
        return AdapterSettings(
            rank=values["r"],
            alpha=values["lora_alpha"],
            dropout=values.get("lora_dropout", 0.0),
            rslora=values.get("use_rslora", False),
            dora=values.get("use_dora", False),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error} is missing or out of range") from error


def read_peft(folder: str | Path, config: ModelConfig) -> dict[str, dict[str, Tensor]]:
    """The tensors of a saved adapter.

    Args:
        folder: of the adapter.
        config: of the model that it belongs to.

    Returns:
        By name of the matrix in this project: `lora_a` (rank, in), `lora_b` (out, rank) and, for
        DoRA, `magnitude` (out,).

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged, a tensor belongs to no matrix of the model, or the layers
            that share a block have different adapters.
    """
    path, names = Path(folder) / WEIGHTS_FILE, matrix_names(config)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(path).items():
        match = re.fullmatch(rf"(?:{re.escape(PREFIX)})?(.+?)\.(lora_\w+(?:\.weight)?)", key)
        if match is None or match[1] not in names or match[2] not in _OUR_PARTS:
            raise ValueError(f"{path}: {key} belongs to no matrix of the model")
        matrix, part = names[match[1]], _OUR_PARTS[match[2]]
        before = found.setdefault(matrix, {}).setdefault(part, tensor)
        if not torch.equal(before, tensor):
            raise ValueError(
                f"{path}: {key} differs from that of another layer with the same block, {matrix}; "
                "a shared block has one adapter"
            )
    return found


def _checked_settings(config: ModelConfig) -> AdapterSettings:
    """The settings that all adapters of a model have in common.

    Raises:
        ValueError: see `write_peft`.
    """
    config_to_huggingface(config)
    shapes: Mapping[str, Any] = config.layer_shapes
    adapted = {n: shape for n, shape in shapes.items() if isinstance(shape, AdaptedShape)}
    others = [n for n in shapes if n not in adapted or adapted[n].base is not DENSE]
    if others:
        raise ValueError(f"{others[0]} is not dense without its adapter")
    if "embedding" in adapted:
        raise ValueError(
            "the adapter of a token embedding changes a tied head too, PEFT's does not"
        )
    if any(getattr(config, name) != 1 for name in MULTIPLIERS):
        raise ValueError(f"the model has multipliers ({', '.join(MULTIPLIERS)})")
    settings = {shape.adapted for shape in adapted.values()}
    if len(settings) != 1:
        raise ValueError(f"the model has {len(settings)} different kinds of adapters")
    return settings.pop()
