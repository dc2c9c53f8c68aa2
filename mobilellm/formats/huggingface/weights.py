"""Reads and writes the weights of Llama-type Hugging Face folders."""

import re
from pathlib import Path

import torch
from torch import Tensor

from mobilellm.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    model_file,
    model_from_state,
    read_json,
    write_json,
    write_tensors,
)
from mobilellm.data.tokenizers import load_tokenizer
from mobilellm.formats.huggingface.architectures import ARCHITECTURES
from mobilellm.formats.huggingface.config import read_huggingface_config
from mobilellm.formats.huggingface.config_export import config_to_huggingface
from mobilellm.formats.huggingface.multipliers import folded_multipliers
from mobilellm.formats.huggingface.tokenizer_files import tokenizer_files
from mobilellm.formats.huggingface.weight_files import read_weights
from mobilellm.formats.rotary_layout import rows_from_pairs
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.layers import materialize
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
# The name in Llama 4.
_OUR_LAYER_NAMES["feed_forward"] = "feed_forward"


def import_huggingface(
    folder: str | Path, *, dtype: torch.dtype | None = torch.float32
) -> MobileLLM:
    """Read a Llama-type checkpoint: one of `ARCHITECTURES`.

    Weights are read from model.safetensors, pytorch_model.bin or shards of either.

    Args:
        folder: contains config.json and the weights.
        dtype: data type of the model's weights; None: as they are stored.

    Raises:
        FileNotFoundError: the folder, config.json or the weights do not exist.
        ValueError: the architecture is not supported (the message names the field of config.json),
            or a file is damaged.
    """
    folder = Path(folder)
    config = read_huggingface_config(folder)
    rotates_pairs = ARCHITECTURES[read_json(folder / CONFIG_FILE)["model_type"]].rotates_pairs
    state: dict[str, Tensor] = {}
    for name, tensor in read_weights(folder).items():
        # Older versions of transformers stored these frequencies, which are computed here.
        if name.endswith("rotary_emb.inv_freq"):
            continue
        own = _own_name(name)
        if rotates_pairs and own.endswith((".q_proj.weight", ".k_proj.weight")):
            tensor = rows_from_pairs(tensor, config.head_dim)  # noqa: PLW2901 # pyright: ignore[reportArgumentType]
        state[own] = tensor if dtype is None else tensor.to(dtype)
    _resolve_tied_head(state, folder, tied=config.tie_word_embeddings)
    return model_from_state(config, state, folder)


def export_huggingface(
    model: MobileLLM, folder: str | Path, tokenizer: str | Path | None = None
) -> None:
    """Write a folder from which `transformers.AutoModelForCausalLM` loads the same model.

    The logits are equal. Shared blocks are unrolled: one layer is stored per application. A tied
    head stays tied. Multipliers become part of the weights (`folded_multipliers`). Compressed
    matrices (factorised or masked) are written as dense ones, since `transformers` has no such
    layers, so the export is as large as the dense model.

    Args:
        model: it is not changed.
        folder: new or empty.
        tokenizer: path of a tokenizer, which `transformers.AutoTokenizer` then loads; its
            end-of-text token is written as the model's.

    Raises:
        ValueError: the folder is not empty, no architecture of `transformers` can represent the
            model, or the tokenizer cannot be read.
        FileNotFoundError: the tokenizer does not exist.
        OSError: a file could not be written.
    """
    folder, config = Path(folder), model.config
    if tokenizer is not None:
        opened = load_tokenizer(Path(tokenizer), config.vocab_size, name="tokenizer ")
        config = with_tokenizer_ids(config, opened)
    values = config_to_huggingface(config)
    values["dtype"] = str(model.norm.weight.dtype).removeprefix("torch.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; export into a new one")
    files = {} if tokenizer is None else tokenizer_files(tokenizer, config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with model_file(folder / name) as temporary:
            temporary.write_bytes(content)
    write_tensors(folder / WEIGHTS_FILE, _huggingface_state(model))
    write_json(folder / CONFIG_FILE, values)


def _own_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blocks.3.feed_forward.up_proj.weight`."""
    if name in _OUR_TOP_NAMES:
        return _OUR_TOP_NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(\w+)\.(.+)", name)
    if match is None or match[2] not in _OUR_LAYER_NAMES:
        return name  # `model_from_state` refuses it as an unknown weight
    return f"blocks.{match[1]}.{_OUR_LAYER_NAMES[match[2]]}.{match[3]}"


@torch.no_grad()
def _dense_state(model: MobileLLM) -> dict[str, Tensor]:
    """The state of the model, with every compressed matrix as a dense weight."""
    compressed = model.config.layer_shapes
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(name.startswith(f"{matrix}.") for matrix in compressed)
    }
    for matrix in compressed:
        weight = materialize(model.get_submodule(matrix))
        state[f"{matrix}.weight"] = weight.to(model.norm.weight.dtype)
    return state


def _huggingface_state(model: MobileLLM) -> dict[str, Tensor]:
    ours = folded_multipliers(_dense_state(model), model.config)
    state = {_TOP_NAMES[name]: tensor for name, tensor in ours.items() if name in _TOP_NAMES}
    written: set[int] = set()
    for layer, index in enumerate(model.config.layer_order):
        prefix = f"blocks.{index}."
        for name, tensor in ours.items():
            if not name.startswith(prefix):
                continue
            part, _, rest = name.removeprefix(prefix).partition(".")
            # safetensors cannot store tensors that share memory, as repeated blocks do.
            content = tensor.clone() if index in written else tensor
            state[f"model.layers.{layer}.{_LAYER_NAMES[part]}.{rest}"] = content
        if model.config.qk_norm == "l2":
            ones = model.norm.weight.new_ones(model.config.head_dim)  # pyright: ignore[reportCallIssue, reportArgumentType]
            for part, factor in (("q_norm", model.config.attention_multiplier), ("k_norm", 1)):
                state[f"model.layers.{layer}.self_attn.{part}.weight"] = ones * factor
        written.add(index)
    return state


def _resolve_tied_head(state: dict[str, Tensor], folder: Path, *, tied: bool) -> None:
    """Keep one matrix if head and embedding are tied; checkpoints store either of them or both.

    Args:
        state: weights by this project's names; changed in place.
        folder: of the checkpoint, for messages.
        tied: whether config.json ties head and embedding.

    Raises:
        ValueError: they are tied, but both are stored and differ; or they are not tied, and the
            head is missing.
    """
    if not tied:
        if "head.weight" not in state and "embedding.weight" in state:
            raise ValueError(
                f"lm_head.weight is missing in {folder}; if the head equals the embedding, set "
                "tie_word_embeddings to true in config.json, otherwise fetch the weights again"
            )
        return
    head = state.pop("head.weight", None)
    if head is not None and not torch.equal(head, state.setdefault("embedding.weight", head)):
        raise ValueError(
            f"lm_head.weight in {folder} differs from the embedding although config.json ties "
            "them; set tie_word_embeddings (in Meta's own checkpoints, share_embedding) to false"
        )
