"""Converts a GGUF file to a model with its tokenizer."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobilellm.checkpoint import model_from_state
from mobilellm.formats.gguf.config import read_architecture, read_gguf_config
from mobilellm.formats.gguf.file import GgufFile
from mobilellm.formats.gguf.names import ROPE_FACTORS, own_name
from mobilellm.formats.gguf.tokenizer import read_gguf_tokenizer
from mobilellm.formats.rotary_layout import rows_from_pairs
from mobilellm.models import MobileLLM, ModelConfig


def import_gguf(path: str | Path) -> tuple[MobileLLM, dict[str, bytes]]:
    """Read a GGUF file of one of the architectures `llama`, `deci` and `qwen3`.

    The weights are the float32 values that `gguf.dequantize` gives, with the rows of the query and
    key projections in this project's order (see `rotary_layout`).

    Args:
        path: path of the file.

    Returns:
        The model, and the contents of the files of its tokenizer by name; no files if the GGUF file
        has no tokenizer.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a GGUF file, is truncated, has another architecture or a type of
            tensor that cannot be dequantized, or its tokenizer is not supported; or the package
            `gguf` is not installed.
    """
    file = GgufFile(Path(path))
    config = read_gguf_config(file)
    tokenizer = read_gguf_tokenizer(file)
    return model_from_state(config, _read_state(file, config), path), dict(tokenizer)


def _read_state(file: GgufFile, config: ModelConfig) -> Mapping[str, Tensor]:
    state: dict[str, Tensor] = {}
    rotates_pairs = read_architecture(file).rotates_pairs
    for name in file.tensors:
        if name == ROPE_FACTORS:
            continue  # part of the configuration
        own = own_name(name)  # `model_from_state` refuses unknown names
        tensor = torch.from_numpy(_dequantize(file, name))
        if rotates_pairs and own.endswith((".q_proj.weight", ".k_proj.weight")):
            tensor = rows_from_pairs(tensor, config.head_dim)  # pyright: ignore[reportArgumentType]
        state[own] = tensor
    return state


def _dequantize(file: GgufFile, name: str) -> np.ndarray:
    import gguf

    tensor = file.tensors[name]
    try:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{file.path}: {name} has the type {tensor.tensor_type.name}, which the package gguf "
            f"cannot dequantize ({error}); convert the file to another type, such as Q8_0"
        ) from None
    # A copy: the file is mapped into memory, and must not be needed later.
    return np.array(values, dtype=np.float32)
