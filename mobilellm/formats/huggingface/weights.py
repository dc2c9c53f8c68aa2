"""Reads and writes the weights of Llama-type Hugging Face folders."""

import re
from dataclasses import replace
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
from mobilellm.formats.dense_weights import dense_weights, of_layers
from mobilellm.formats.huggingface.architectures import ARCHITECTURES
from mobilellm.formats.huggingface.config import read_huggingface_config
from mobilellm.formats.huggingface.config_export import config_to_huggingface
from mobilellm.formats.huggingface.custom_code import (
    custom_state,
    import_custom,
    modelling_files,
)
from mobilellm.formats.huggingface.custom_config import MODEL_TYPE, custom_config
from mobilellm.formats.huggingface.tokenizer_files import tokenizer_files
from mobilellm.formats.huggingface.weight_files import read_weights
from mobilellm.formats.rotary_layout import rows_from_pairs
from mobilellm.formats.special_tokens import with_tokenizer_ids
from mobilellm.models import MobileLLM, ModelConfig

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
    model_type = read_json(folder / CONFIG_FILE)["model_type"]
    if model_type == MODEL_TYPE:
        return import_custom(folder, config, dtype)
    rotates_pairs = ARCHITECTURES[model_type].rotates_pairs
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
    model: MobileLLM,
    folder: str | Path,
    tokenizer: str | Path | None = None,
    *,
    custom_code: bool = False,
) -> None:
    """Write a folder from which `transformers.AutoModelForCausalLM` loads the same model.

    The logits are equal. Shared blocks are unrolled: one layer is stored per application. A tied
    head stays tied. Multipliers become part of the weights (`dense_weights`). Compressed matrices
    (factorised or masked) are written as dense ones, since `transformers` has no such layers, so
    the export is as large as the dense model.

    With `custom_code`, the folder gets a modelling file of its own instead: shared blocks are
    stored once, factorised matrices by their factors, and every model of this project can be
    exported. It loads with `trust_remote_code=True`.

    Args:
        model: it is not changed.
        folder: new or empty.
        tokenizer: path of a tokenizer, which `transformers.AutoTokenizer` then loads; its
            end-of-text token is written as the model's.
        custom_code: whether to write a modelling file of its own.

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
    code, state = {}, None
    if custom_code:
        written, state = custom_state(model)
        tokens = {name: getattr(config, name) for name in ("eos_token_id", "bos_token_id")}
        values, code = custom_config(replace(written, **tokens)), modelling_files()
    else:
        values = config_to_huggingface(config)
    values["dtype"] = str(model.norm.weight.dtype).removeprefix("torch.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; export into a new one")
    files = code | ({} if tokenizer is None else tokenizer_files(tokenizer, config))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with model_file(folder / name) as temporary:
            temporary.write_bytes(content)
    write_tensors(folder / WEIGHTS_FILE, state or _huggingface_state(model))
    write_json(folder / CONFIG_FILE, values)


def matrix_names(config: ModelConfig) -> dict[str, str]:
    """The matrices of all layers and of an untied head, as modules of `transformers`.

    Returns:
        Names in this project by those in `transformers`, in which each layer has its own:
        `model.layers.3.mlp.up_proj` -> `blocks.1.feed_forward.up_proj`.
    """
    names = {} if config.tie_word_embeddings else {"lm_head": "head"}
    for layer, inner, name in of_layers(config.matrix_sizes, config):
        part, _, rest = inner.partition(".")
        names[f"model.layers.{layer}.{_LAYER_NAMES[part]}.{rest}"] = name
    return names


def _own_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blocks.3.feed_forward.up_proj.weight`."""
    if name in _OUR_TOP_NAMES:
        return _OUR_TOP_NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(\w+)\.(.+)", name)
    if match is None or match[2] not in _OUR_LAYER_NAMES:
        return name  # `model_from_state` refuses it as an unknown weight
    return f"blocks.{match[1]}.{_OUR_LAYER_NAMES[match[2]]}.{match[3]}"


def _huggingface_state(model: MobileLLM) -> dict[str, Tensor]:
    ours = dense_weights(model)
    state = {_TOP_NAMES[name]: tensor for name, tensor in ours.items() if name in _TOP_NAMES}
    written: set[int] = set()
    for layer, inner, name in of_layers(ours, model.config):
        part, _, rest = inner.partition(".")
        # safetensors cannot store tensors that share memory, as those of repeated blocks do.
        tensor = ours[name]
        content = tensor.clone() if tensor.data_ptr() in written else tensor
        state[f"model.layers.{layer}.{_LAYER_NAMES[part]}.{rest}"] = content
        written.add(content.data_ptr())
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
