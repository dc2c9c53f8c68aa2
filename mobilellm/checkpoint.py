"""The folder of a model: config.json, model.safetensors and optionally tokenizer.model."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilellm.files import TOKENIZER_FILE, atomic_write, describe_unread
from mobilellm.layers import describe_tensors
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.saved_config import (
    CONFIG_FILE,
    FORMAT,
    check_exists,
    read_config,
    read_json,
)

__all__ = [
    "CONFIG_FILE",
    "FORMAT",
    "TOKENIZER_FILE",
    "WEIGHTS_FILE",
    "check_exists",
    "load_model",
    "model_file",
    "model_from_state",
    "read_json",
    "read_tensors",
    "save_model",
    "stored_bytes",
    "write_json",
    "write_tensors",
]

WEIGHTS_FILE = "model.safetensors"


def save_model(
    model: MobileLLM, folder: str | Path, tokenizer: str | Path | bytes | None = None
) -> None:
    """Write `model` into `folder`; each file is written atomically.

    Args:
        model: each parameter is stored once, even if blocks are shared or embeddings are tied. Of
            a masked matrix, the remaining weights and one bit per entry are stored.
        folder: created if it does not exist; a model in it is replaced.
        tokenizer: a SentencePiece model, as a path or as its bytes.

    Raises:
        FileNotFoundError: the path of the tokenizer does not exist.
        OSError: a file could not be written; its previous version is kept.
    """
    folder = Path(folder)
    content = _tokenizer_bytes(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    if content is not None:
        with model_file(folder / TOKENIZER_FILE) as temporary:
            temporary.write_bytes(content)
    write_tensors(folder / WEIGHTS_FILE, _packed_state(model))
    write_json(folder / CONFIG_FILE, {"format": FORMAT, **model.config.to_dict()})


def stored_bytes(model: MobileLLM, dtype: torch.dtype | None = None) -> int:
    """Size in bytes of all tensors in the file that `save_model` writes for `model`.

    Args:
        model: to measure.
        dtype: of the weights in the file; None: that of the model.
    """
    return sum(
        tensor.numel() * (dtype or tensor.dtype).itemsize
        if tensor.is_floating_point()
        else tensor.nbytes
        for tensor in _packed_state(model).values()
    )


def load_model(folder: str | Path) -> MobileLLM:
    """Read a model that `save_model` wrote, onto the CPU, in the number type of the file.

    Raises:
        FileNotFoundError: the folder or one of its files does not exist.
        ValueError: the configuration has an unknown field, or weights do not have its shapes.
    """
    folder = Path(folder)
    config, state = read_config(folder), read_tensors(folder / WEIGHTS_FILE)
    for name, shape in config.layer_shapes.items():
        try:
            unpacked = shape.unpack(_take_layer(state, name), config.matrix_sizes[name])
        except ValueError as error:
            raise ValueError(f"{folder / WEIGHTS_FILE}: {name} {error}") from error
        state |= {f"{name}.{key}": tensor for key, tensor in unpacked.items()}
    return model_from_state(config, state, folder)


def _packed_state(model: MobileLLM) -> dict[str, Tensor]:
    """The tensors of `model` as they are written to disk."""
    state = dict(model.state_dict())
    for name, shape in model.config.layer_shapes.items():
        packed = shape.pack(_take_layer(state, name))
        state |= {f"{name}.{key}": tensor for key, tensor in packed.items()}
    return state


def _layer_tensors(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one layer, by their names in the layer."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)}


def _take_layer(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """As `_layer_tensors`, and remove them from `state`."""
    tensors = _layer_tensors(state, name)
    for key in tensors:
        del state[f"{name}.{key}"]
    return tensors


def model_from_state(
    config: ModelConfig, state: Mapping[str, Tensor], origin: str | Path
) -> MobileLLM:
    """A model of `config` with the given weights, without drawing random ones first.

    Raises:
        ValueError: a weight is missing, unknown or has the wrong shape; the message names it and
            `origin`.
    """
    with torch.device("meta"):
        model = MobileLLM(config)
    expected = model.state_dict()
    _check_kinds(expected, state, config, origin)
    for name in [*expected, *state]:
        wanted = tuple(expected[name].shape) if name in expected else "nothing"
        given = tuple(state[name].shape) if name in state else "nothing"
        if wanted != given:
            raise ValueError(
                f"weight {name} in {origin} has shape {given} where config.json asks for "
                f"{wanted}; use the config.json the weights were saved with"
            )
    model.load_state_dict(state, assign=True)
    return model


def _check_kinds(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    config: ModelConfig,
    origin: str | Path,
) -> None:
    """Check that each matrix is stored in the form (dense, factorised, masked) that `config` says.

    Raises:
        ValueError: a matrix is stored in another form.
    """
    for name in config.matrix_sizes:
        wanted, given = (
            describe_tensors(_layer_tensors(tensors, name)) for tensors in (expected, state)
        )
        if wanted != given and given is not None:
            raise ValueError(
                f"{name} is {given} in {origin}, and {wanted} by config.json "
                f"({'with' if config.compressed_layers else 'without'} compressed_layers); use the "
                "config.json the weights were saved with: its compressed_layers give the form of "
                "each matrix"
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, copied into memory.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_exists(path)
    try:
        # load_file maps the file into memory: the model would change if the file were overwritten.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        reason = describe_unread(path) or f"is damaged ({error}); save or fetch it again"
        raise ValueError(f"{path} {reason}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically.

    Raises:
        OSError: as `model_file`.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with model_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: as `model_file`.
    """
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with model_file(path) as temporary:
        save_file(state, temporary, {"format": "pt"})


@contextmanager
def model_file(path: Path) -> Iterator[Path]:
    """`files.atomic_write` for a file of a model folder, with a remedy in its error.

    Raises:
        OSError: the file could not be written, for example because the disk is full.
    """
    from safetensors import SafetensorError

    try:
        with atomic_write(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write {path} ({error}); make room or choose another folder, "
            "what was there before is kept"
        ) from error


def _tokenizer_bytes(tokenizer: str | Path | bytes | None) -> bytes | None:
    if tokenizer is None or isinstance(tokenizer, bytes):
        return tokenizer
    check_exists(Path(tokenizer))
    return Path(tokenizer).read_bytes()
