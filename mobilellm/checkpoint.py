"""Saves and loads the folder of a model: config.json, model.safetensors and the tokenizer."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilellm.data.tokenizers import OWN_FILES, open_tokenizer
from mobilellm.files import TOKENIZER_FILE, atomic_write, describe_invalid_file
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
    model: MobileLLM,
    folder: str | Path,
    tokenizer: str | Path | bytes | Mapping[str, bytes] | None = None,
) -> None:
    """Write `model` into `folder`; each file is written atomically.

    Args:
        model: each parameter is stored once, even if blocks are shared or embeddings are tied. A
            masked matrix is stored as its remaining weights and one bit per entry.
        folder: created if it does not exist; a model in it is replaced.
        tokenizer: path of a tokenizer, which is written with the settings beside it; the contents
            of its files by name; or the bytes of a SentencePiece model. None: none is written.

    Raises:
        FileNotFoundError: the path of the tokenizer does not exist.
        ValueError: the file of the tokenizer cannot be read.
        OSError: a file could not be written; its previous version is kept.
    """
    folder = Path(folder)
    files = _tokenizer_files(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with model_file(folder / name) as temporary:
            temporary.write_bytes(content)
    if files:
        for name in OWN_FILES.difference(files):
            (folder / name).unlink(missing_ok=True)
    write_tensors(folder / WEIGHTS_FILE, _packed_state(model))
    write_json(folder / CONFIG_FILE, {"format": FORMAT, **model.config.to_dict()})


def stored_bytes(model: MobileLLM, dtype: torch.dtype | None = None) -> int:
    """Return the size in bytes of all tensors in the file that `save_model` writes for `model`.

    Args:
        model: it is not written.
        dtype: data type of the weights in the file; None: that of the model. Quantized matrices
            keep their types.
    """
    sizes = model.config.matrix_sizes
    packed = tuple(
        f"{name}."
        for name, shape in model.config.layer_shapes.items()
        if shape.cost(sizes[name]).packed_bytes is not None
    )
    return sum(
        tensor.numel() * (dtype or tensor.dtype).itemsize
        if tensor.is_floating_point() and not name.startswith(packed)
        else tensor.nbytes
        for name, tensor in _packed_state(model).items()
    )


def load_model(folder: str | Path) -> MobileLLM:
    """Load a model that `save_model` wrote, onto the CPU and in the data type of the file.

    Raises:
        FileNotFoundError: the folder or one of its files does not exist.
        ValueError: a file is damaged, the configuration has an unknown field, or the weights do not
            have the shapes of the configuration.
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
    """The tensors of one layer, named as in the layer."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)}


def _take_layer(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Remove the tensors of one layer from `state` and return them, named as in the layer."""
    tensors = _layer_tensors(state, name)
    for key in tensors:
        del state[f"{name}.{key}"]
    return tensors


def model_from_state(
    config: ModelConfig, state: Mapping[str, Tensor], origin: str | Path
) -> MobileLLM:
    """Build a model with the given weights, without initialising it with random ones first.

    Args:
        config: of the model.
        state: a state dictionary; its tensors become the parameters and are not copied.
        origin: file or folder of the weights, for messages.

    Raises:
        ValueError: a weight is missing, is unknown, or has the wrong shape.
    """
    with torch.device("meta"):
        model = MobileLLM(config)
    expected = model.state_dict()
    _check_kinds(expected, state, config, origin)
    for name in [*expected, *state]:
        mismatch = _describe_mismatch(expected.get(name), state.get(name))
        if mismatch:
            raise ValueError(
                f"weight {name} in {origin} {mismatch}; use the config.json that was saved with "
                "the weights"
            )
    model.load_state_dict(state, assign=True)
    return model


def _describe_mismatch(expected: Tensor | None, given: Tensor | None) -> str | None:
    """How a weight differs from the weight of config.json; None if it has the same shape."""
    if given is None:
        return "is missing, but config.json requires it"
    if expected is None:
        return "is unknown: config.json describes a model without it"
    if given.shape != expected.shape:
        return (
            f"has shape {tuple(given.shape)}, but config.json requires shape "
            f"{tuple(expected.shape)}"
        )
    return None


def _check_kinds(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    config: ModelConfig,
    origin: str | Path,
) -> None:
    """Check that each matrix is stored in the form (dense, factorised or masked) of `config`.

    Raises:
        ValueError: a matrix is stored in another form.
    """
    for name in config.matrix_sizes:
        wanted, given = (
            describe_tensors(_layer_tensors(tensors, name)) for tensors in (expected, state)
        )
        if wanted != given and given is not None:
            raise ValueError(
                f"{name} is {given} in {origin}, but {wanted} according to config.json "
                f"({'with' if config.compressed_layers else 'without'} compressed_layers); use the "
                "config.json that was saved with the weights: its field compressed_layers gives "
                "the form of each matrix"
            )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file into memory.

    Raises:
        FileNotFoundError: the folder or the file does not exist.
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    check_exists(path)
    try:
        # By default the file is mapped into memory, and its pages count as memory of the process
        # beside the copies. Copies begin at multiples of 64 bytes, as all tensors of torch; the
        # last bits of a matrix product may depend on that.
        with safe_open(path, "pt", backend="pread") as file:
            return {name: file.get_tensor(name).clone() for name in file.offset_keys()}
    except SafetensorError as error:
        reason = describe_invalid_file(path) or f"is damaged ({error}); save or fetch it again"
        raise ValueError(f"{path} {reason}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically.

    Raises:
        OSError: the file could not be written; the previous one is kept.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with model_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: the file could not be written; the previous one is kept.
    """
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with model_file(path) as temporary:
        save_file(state, temporary, {"format": "pt"})


@contextmanager
def model_file(path: Path) -> Iterator[Path]:
    """Write a file of a model folder with `files.atomic_write`; errors say what to do.

    Raises:
        OSError: the file could not be written, for example because the disk is full.
    """
    from safetensors import SafetensorError

    try:
        with atomic_write(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write {path} ({error}); free some space or choose another folder (a file that "
            "existed before is unchanged)"
        ) from error


def _tokenizer_files(
    tokenizer: str | Path | bytes | Mapping[str, bytes] | None,
) -> Mapping[str, bytes]:
    """The contents of the tokenizer's files by name."""
    if tokenizer is None:
        return {}
    if isinstance(tokenizer, bytes):
        return {TOKENIZER_FILE: tokenizer}
    if isinstance(tokenizer, Mapping):
        return tokenizer
    check_exists(Path(tokenizer))
    return open_tokenizer(Path(tokenizer), name="tokenizer ").files()
