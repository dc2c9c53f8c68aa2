"""Converts a GGUF file of the Llama architecture to a model with its tokenizer."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobilellm.checkpoint import model_from_state
from mobilellm.formats.gguf.config import ROPE_FACTORS, read_gguf_config
from mobilellm.formats.gguf.file import GgufFile
from mobilellm.formats.gguf.tokenizer import read_gguf_tokenizer
from mobilellm.formats.rotary_layout import rows_from_pairs
from mobilellm.models import MobileLLM, ModelConfig

_TOP_NAMES = {
    "token_embd.weight": "embedding.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "attention_norm",
    "ffn_norm": "feed_forward_norm",
    "attn_q": "attention.q_proj",
    "attn_k": "attention.k_proj",
    "attn_v": "attention.v_proj",
    "attn_output": "attention.o_proj",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
}


def import_gguf(path: str | Path) -> tuple[MobileLLM, dict[str, bytes]]:
    """Read a GGUF file of the Llama architecture.

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
    for name in file.tensors:
        if name == ROPE_FACTORS:
            continue  # part of the configuration
        own = _own_name(name)
        tensor = torch.from_numpy(_dequantize(file, name))
        if own.endswith((".q_proj.weight", ".k_proj.weight")):
            tensor = rows_from_pairs(tensor, config.head_dim)  # pyright: ignore[reportArgumentType]
        state[own] = tensor
    return state


def _own_name(name: str) -> str:
    """`blk.3.ffn_up.weight` -> `blocks.3.feed_forward.up_proj.weight`."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _BLOCK_NAMES:
        return name  # `model_from_state` refuses it as an unknown weight
    return f"blocks.{match[1]}.{_BLOCK_NAMES[match[2]]}.weight"


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
