"""Reads the files with the weights of a Hugging Face folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from mobilellm.checkpoint import WEIGHTS_FILE, check_exists, read_json, read_tensors
from mobilellm.files import describe_invalid_file


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint from the first of the known file names that exists."""
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {
        WEIGHTS_FILE: read_tensors,
        "pytorch_model.bin": _read_pickle,
    }
    for name, read in readers.items():
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = _indexed_files(index)
            _check_complete(index, files)
            return {key: tensor for file in files for key, tensor in read(folder / file).items()}
    raise FileNotFoundError(
        f"{folder} contains no weights; expected {', '.join(readers)} or their .index.json"
    )


def _indexed_files(index: Path) -> list[str]:
    """The files of the shards that an index lists.

    Raises:
        ValueError: the index does not list files.
    """
    names = read_json(index).get("weight_map")
    is_map = isinstance(names, Mapping) and all(isinstance(n, str) for n in names.values())
    if not is_map or not names:
        raise ValueError(
            f"{index} has no weight_map, which maps the name of each weight to its file; fetch it "
            "again"
        )
    return sorted(set(names.values()))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    check_exists(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises any of these for a damaged file, depending on where the damage is.
    except (UnpicklingError, EOFError, OSError, RuntimeError, LookupError, ValueError) as error:
        reason = "is damaged: truncated, or not written by torch.save; fetch it again"
        if isinstance(error, UnpicklingError) and "Unsupported" in str(error):
            reason = (
                "contains objects other than tensors and cannot be loaded safely; convert it to "
                "safetensors"
            )
        raise ValueError(f"{path} {describe_invalid_file(path) or reason}") from error
    is_state = isinstance(state, Mapping) and all(isinstance(t, Tensor) for t in state.values())
    if not is_state:
        raise ValueError(
            f"{path} does not contain named weights; save model.state_dict(), or convert it to "
            "safetensors"
        )
    return dict(state)


def _check_complete(index: Path, files: Sequence[str]) -> None:
    """Check that all shards of a checkpoint are there, before any of them is read.

    Raises:
        FileNotFoundError: shards are missing.
    """
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        more = f" (one of {len(missing)} missing files)" if len(missing) > 1 else ""
        raise FileNotFoundError(
            f"{missing[0]} is missing in {index.parent}{more}, although {index.name} lists it; "
            "fetch the folder again"
        )
