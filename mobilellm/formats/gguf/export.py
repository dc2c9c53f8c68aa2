"""Writes a model with its tokenizer as a GGUF file, the format of llama.cpp."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mobilellm.checkpoint import model_file
from mobilellm.data.tokenizers import load_tokenizer
from mobilellm.formats.dense_weights import dense_weights, of_layers
from mobilellm.formats.gguf.architectures import GgufArchitecture, architecture_for
from mobilellm.formats.gguf.file import gguf_package
from mobilellm.formats.gguf.metadata import rope_factors, write_config
from mobilellm.formats.gguf.names import ROPE_FACTORS, gguf_layer_name, gguf_top_name
from mobilellm.formats.gguf.summary import GgufExport
from mobilellm.formats.gguf.tensor_types import choose_types, encode, gguf_type, tensor_bytes
from mobilellm.formats.gguf.tokenizer_export import (
    read_vocabulary,
    write_placeholder_tokens,
    write_tokenizer,
)
from mobilellm.formats.rotary_layout import rows_to_pairs
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.units import bytes_text

_QUANTIZATION_VERSION = 2
_FILE_TYPES = {
    "f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
}  # fmt: skip


def export_gguf(
    model: MobileLLM,
    path: str | Path,
    tokenizer: str | Path | None = None,
    *,
    kind: str = "f16",
    table_kind: str | None = None,
    fallback: str | None = None,
    pre_tokenizer: str | None = None,
    name: str | None = None,
) -> GgufExport:
    """Write a file from which llama.cpp runs the same model.

    A model is written in the architecture `llama`; one with QK-norm as `qwen3`, where a norm
    without weights gets weights of 1; and one whose blocks differ in size as `deci`. Shared blocks
    are unrolled: one layer is stored per application. A tied table is stored once. Multipliers
    become part of the weights, and compressed matrices are written as dense ones (`dense_weights`).

    Args:
        model: it is not changed.
        path: of the file, which must not exist.
        tokenizer: path of a tokenizer; its end-of-text token is written as the model's. None: the
            file gets tokens without meaning, with which llama.cpp reads and gives token ids only,
            for example to measure its speed.
        kind: type of the matrices: `f32`, `f16`, `q8_0`, `q4_0` or `q4_1`.
        table_kind: type of the token embedding and of an output head of its own; default: `kind`.
        fallback: type (`f16` or `f32`) of the matrices whose rows do not consist of whole blocks of
            32 weights; None: they are refused.
        pre_tokenizer: what llama.cpp calls the way in which a tokenizer.json splits text into
            words; None: it is recognised, and refused if it is not known.
        name: of the model, for the metadata; default: the name of the file.

    Returns:
        What was written.

    Raises:
        ValueError: the file exists, no architecture can hold the model, llama.cpp would split text
            into other tokens, a matrix cannot be written in its type, weights are not finite, or
            the package `gguf` is not installed.
        FileNotFoundError: the tokenizer does not exist.
        OSError: the file could not be written; nothing is left of it.
    """
    path, config = Path(path), model.config
    gguf = gguf_package(f"writing {path}")
    if path.exists():
        raise ValueError(f"{path} exists and is never overwritten; give a new file")
    architecture = architecture_for(config)
    weights = dense_weights(model)
    names = _names(weights, config)
    sizes = {name: tuple(weights[own].shape) for name, own in names.items()}
    types = choose_types(sizes, kind, table_kind=table_kind, fallback=fallback)
    opened = None
    if tokenizer is not None:
        opened = load_tokenizer(Path(tokenizer), config.vocab_size, name="tokenizer ")
        config = with_tokenizer_ids(config, opened)
    vocabulary = None if opened is None else read_vocabulary(opened, pre_tokenizer)
    written = GgufExport(path, architecture.name, config, sizes, types)
    _check_space(written)
    writer = gguf.GGUFWriter(None, architecture.name)
    writer.add_type("model")
    writer.add_name(name or path.stem)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    write_config(writer, config, architecture)
    if opened is None or vocabulary is None:
        write_placeholder_tokens(writer, config)
    else:
        write_tokenizer(writer, opened, vocabulary, config)
    _add_tensors(writer, weights, names, types, config, architecture)
    with model_file(path) as temporary:
        _write(writer, temporary)
    return written


def _names(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, str]:
    """For every tensor of the file, in its order, the weight that it is written from."""
    names = {theirs: own for own in weights if (theirs := gguf_top_name(own)) is not None}
    return names | {
        gguf_layer_name(layer, inner): own for layer, inner, own in of_layers(weights, config)
    }


def _check_space(written: GgufExport) -> None:
    """Check that the disk has room for the file.

    Raises:
        OSError: it has not (ENOSPC).
    """
    needed = sum(tensor_bytes(size, written.types[name]) for name, size in written.sizes.items())
    folder = next(p for p in written.path.absolute().parents if p.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{written.path} takes {bytes_text(needed)}, {bytes_text(free)} are free"
        )


def _add_tensors(
    writer: Any,
    weights: dict[str, Tensor],
    names: dict[str, str],
    types: dict[str, str],
    config: ModelConfig,
    architecture: GgufArchitecture,
) -> None:
    # A shared block is converted once, and written once per application.
    converted: dict[str, np.ndarray] = {}
    for name, own in names.items():
        if own not in converted:
            tensor = weights[own]
            is_rotated = own.endswith((".q_proj.weight", ".k_proj.weight"))
            if architecture.rotates_pairs and is_rotated:
                tensor = rows_to_pairs(tensor, config.head_dim)  # pyright: ignore[reportArgumentType]
            converted[own] = encode(tensor, name, types[name])
        writer.add_tensor(name, converted[own], raw_dtype=gguf_type(types[name]))
    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor(ROPE_FACTORS, factors)


def _write(writer: Any, path: Path) -> None:
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
