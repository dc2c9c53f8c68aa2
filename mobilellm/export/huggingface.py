"""Llama-type Hugging Face folders, in and out, without `transformers`.

The weights' side; the architectures that are understood stand in `huggingface_config`.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from mobilellm.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    model_from_state,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)
from mobilellm.export.huggingface_config import config_from_huggingface, config_to_huggingface
from mobilellm.export.huggingface_tokenizer import tokenizer_files
from mobilellm.models import MobileLLM

_TOP_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "attention": "self_attn",
    "feed_forward": "mlp",
}
_OUR_TOP_NAMES = {theirs: ours for ours, theirs in _TOP_NAMES.items()}
_OUR_LAYER_NAMES = {theirs: ours for ours, theirs in _LAYER_NAMES.items()}


def import_huggingface(
    folder: str | Path, *, dtype: torch.dtype | None = torch.float32
) -> MobileLLM:
    """Read a Llama-type checkpoint: Llama, Qwen3, Arcee with ReLU, or Meta's own MobileLLM.

    Weights come from model.safetensors, pytorch_model.bin or shards of either.

    Args:
        folder: holds config.json and the weights.
        dtype: number type of the model's weights; None keeps what is stored.

    Raises:
        FileNotFoundError: no such folder, config.json or weights.
        ValueError: the architecture is not ours: names the field of config.json.
    """
    folder = Path(folder)
    values = read_json(folder / CONFIG_FILE)
    try:
        config = config_from_huggingface(values)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
    state: dict[str, Tensor] = {}
    for name, tensor in _read_weights(folder).items():
        if not name.endswith("rotary_emb.inv_freq"):  # derived; older versions stored it
            state[_our_name(name)] = tensor if dtype is None else tensor.to(dtype)
    if config.tie_word_embeddings:
        _drop_tied_head(state, folder)
    return model_from_state(config, state, folder)


def export_huggingface(
    model: MobileLLM, folder: str | Path, tokenizer: str | Path | None = None
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM` loads and that gives equal logits.

    Shared blocks are unrolled: one stored layer per application. A tied head stays tied.
    Factorised and masked matrices are folded into dense ones, zeros included, since plain
    architectures hold nothing else: the logits are equal, the savings are gone.

    Args:
        model: left as it is.
        folder: new or empty.
        tokenizer: path of a SentencePiece model, which `transformers.AutoTokenizer` then loads.

    Raises:
        ValueError: the folder is not empty, no architecture of `transformers` holds the model, or
            the tokenizer is none.
        FileNotFoundError: the tokenizer does not exist.
        OSError: a file could not be written.
    """
    folder = Path(folder)
    values = config_to_huggingface(model.config)
    values["dtype"] = str(model.norm.weight.dtype).removeprefix("torch.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; export into a new one")
    files = {} if tokenizer is None else tokenizer_files(tokenizer, model.config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    write_tensors(folder / WEIGHTS_FILE, _their_state(model))
    write_json(folder / CONFIG_FILE, values)


def _our_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blocks.3.feed_forward.up_proj.weight`."""
    if name in _OUR_TOP_NAMES:
        return _OUR_TOP_NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(\w+)\.(.+)", name)
    if match is None or match[2] not in _OUR_LAYER_NAMES:
        return name  # refused by name when the weights are taken
    return f"blocks.{match[1]}.{_OUR_LAYER_NAMES[match[2]]}.{match[3]}"


@torch.no_grad()
def _dense_state(model: MobileLLM) -> dict[str, Tensor]:
    """The state of the model, with every compressed matrix as the dense weight it stands for."""
    compressed = model.config.layer_shapes
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(name.startswith(f"{matrix}.") for matrix in compressed)
    }
    for matrix in compressed:
        state[f"{matrix}.weight"] = model.get_submodule(matrix).materialize()  # pyright: ignore[reportCallIssue]
    return state


def _their_state(model: MobileLLM) -> dict[str, Tensor]:
    ours = _dense_state(model)
    state = {_TOP_NAMES[name]: tensor for name, tensor in ours.items() if name in _TOP_NAMES}
    written: set[int] = set()
    for layer, index in enumerate(model.config.layer_order):
        prefix = f"blocks.{index}."
        for name, tensor in ours.items():
            if not name.startswith(prefix):
                continue
            part, _, rest = name.removeprefix(prefix).partition(".")
            # safetensors refuses tensors that share memory, as repeats of a block do.
            content = tensor.clone() if index in written else tensor
            state[f"model.layers.{layer}.{_LAYER_NAMES[part]}.{rest}"] = content
        if model.config.qk_norm == "l2":
            ones = model.norm.weight.new_ones(model.config.head_dim)  # pyright: ignore[reportCallIssue, reportArgumentType]
            for part in ("q_norm", "k_norm"):
                state[f"model.layers.{layer}.self_attn.{part}.weight"] = ones.clone()
        written.add(index)
    return state


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's checkpoint, whichever of the usual files holds them."""
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {
        WEIGHTS_FILE: read_tensors,
        "pytorch_model.bin": _read_pickle,
    }
    for name, read in readers.items():
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
            return {key: tensor for file in files for key, tensor in read(folder / file).items()}
    raise FileNotFoundError(
        f"{folder} holds no weights; expected {', '.join(readers)} or their .index.json"
    )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing in {path.parent}; give a whole folder")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and cannot be loaded safely; convert it to safetensors"
        ) from error


def _drop_tied_head(state: dict[str, Tensor], folder: Path) -> None:
    """Remove a stored copy of the tied head.

    Raises:
        ValueError: it is not a copy.
    """
    head = state.pop("head.weight", None)
    if head is not None and not torch.equal(head, state.get("embedding.weight", head)):
        raise ValueError(
            f"lm_head.weight in {folder} differs from the embedding although config.json ties "
            "them; set tie_word_embeddings to false"
        )
