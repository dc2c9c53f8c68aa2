"""Reads the config.json of Hugging Face as `ModelConfig`."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellm.data.tokenizers import find_tokenizer_file, open_tokenizer
from mobilellm.formats.huggingface.architectures import (
    Architecture,
    NotRepresentable,
    architecture_of,
)
from mobilellm.formats.huggingface.custom_config import MODEL_TYPE, config_from_custom
from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import KINDS, RotaryScaling
from mobilellm.models.saved_config import CONFIG_FILE, read_json

logger = logging.getLogger(__name__)


def read_huggingface_config(folder: str | Path) -> ModelConfig:
    """Read the configuration of the model in a Hugging Face folder.

    Raises:
        FileNotFoundError: the folder or its config.json does not exist.
        NotRepresentable: the architecture is not supported.
        ValueError: the file is damaged, or has an invalid value.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        values = read_json(path)
        is_own = values.get("model_type") == MODEL_TYPE
        config = (config_from_custom if is_own else config_from_huggingface)(values)
    except NotRepresentable as error:
        raise NotRepresentable(f"{path}: {error}") from error
    except ValueError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ValueError(message) from error
    ends = values.get("eos_token_id")
    if isinstance(ends, list) and len(ends) > 1:
        config = replace(config, eos_token_id=_one_end(ends, Path(folder)))
        logger.warning(
            "%s has several end-of-text tokens, %s; texts end at %d only",
            path, ends, config.eos_token_id,
        )  # fmt: skip
    return config


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """Convert the contents of a Hugging Face config.json to a `ModelConfig`.

    Of several end-of-text tokens, the first is used.

    Raises:
        NotRepresentable: the architecture is not supported.
        ValueError: a value is missing or invalid.
    """
    found = architecture_of(values)
    rope = _rotary_settings(values)
    return ModelConfig(
        vocab_size=_integer(values, "vocab_size"),
        hidden_size=_integer(values, "hidden_size"),
        intermediate_size=_integer(values, _width_name(values)),
        num_blocks=_integer(values, "num_hidden_layers"),
        num_attention_heads=_integer(values, "num_attention_heads"),
        num_key_value_heads=_optional_integer(values, "num_key_value_heads"),
        head_dim=_optional_integer(values, "head_dim"),
        block_repeats=2 if _boolean(values, "layer_sharing") else 1,
        tie_word_embeddings=_is_tied(values, found),
        max_position_embeddings=_context(values, found),
        rope_theta=_positive_number(rope, "rope_theta", found.rope_theta),
        rope_scaling=_rotary_scaling(rope, _context(values, found)),
        rms_norm_eps=_positive_number(values, "rms_norm_eps", found.rms_norm_eps),
        feed_forward="swiglu" if found.activation == "silu" else "relu",
        qk_norm=_qk_norm(values, found),
        eos_token_id=_token_id(values, "eos_token_id", 2),
        bos_token_id=_token_id(values, "bos_token_id", 1),
    )


def _width_name(values: Mapping[str, Any]) -> str:
    """The field with the width of dense feed-forward layers."""
    is_llama4 = values["model_type"] == "llama4_text"
    return "intermediate_size_mlp" if is_llama4 else "intermediate_size"


def _is_tied(values: Mapping[str, Any], found: Architecture) -> bool:
    """Whether head and embedding are one matrix.

    Meta's code writes share_embedding, even if model_type is llama, and then tie_word_embeddings
    has no effect.
    """
    if _boolean(values, "share_embedding"):
        return True
    return _boolean(values, "tie_word_embeddings", default=found.tied)


def _qk_norm(values: Mapping[str, Any], found: Architecture) -> str:
    is_used = found.qk_norm != "l2" or _boolean(values, "use_qk_norm", default=True)
    return found.qk_norm if is_used else "none"


def _context(values: Mapping[str, Any], found: Architecture) -> int:
    """The context length; if attention is limited to chunks, that of the first chunk."""
    context = _integer(values, "max_position_embeddings", default=found.context)
    chunk = values.get("attention_chunk_size", found.window)
    if values["model_type"] != "llama4_text" or not isinstance(chunk, int) or chunk >= context:
        return context
    logger.warning(
        "attention_chunk_size=%d limits the context: beyond it, tokens would attend to their own "
        "chunk only, which cannot be represented; max_position_embeddings is %d instead of %d",
        chunk, chunk, context,
    )  # fmt: skip
    return chunk


def _one_end(ends: list[Any], folder: Path) -> int:
    """Of several end-of-text tokens of a model, the one of its tokenizer, otherwise the first."""
    path = find_tokenizer_file(folder)
    token = None if path is None else open_tokenizer(path, name="tokenizer ").eos_id
    return token if token in ends and token is not None else ends[0]


def _rotary_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the rotary embedding, from the fields of transformers 5 or earlier versions.

    Raises:
        ValueError: they are not objects.
        NotRepresentable: they differ between layers, or only a part of each head is rotated.
    """
    names = ("rope_theta", "partial_rotary_factor")
    rope = {name: values[name] for name in names if values.get(name) is not None}
    # If both are given, transformers uses the older rope_scaling.
    for name in ("rope_parameters", "rope_scaling"):
        given = values.get(name) or {}
        if not isinstance(given, Mapping):
            raise ValueError(
                f'{name}={given!r} must be null or an object such as {{"rope_type": "default"}}'
            )
        if any(isinstance(value, Mapping) for value in given.values()):
            raise NotRepresentable(
                f"{name}={dict(given)} cannot be represented: it differs between kinds of layers"
            )
        kind = given.get("rope_type", given.get("type"))  # the older name
        rope |= {**given, "rope_type": kind} if kind is not None else given
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise NotRepresentable(
            f"partial_rotary_factor={rope['partial_rotary_factor']} cannot be represented; "
            "only rotation of whole heads is supported"
        )
    return rope


def _rotary_scaling(rope: Mapping[str, Any], context: int) -> RotaryScaling | None:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind not in KINDS:
        raise NotRepresentable(
            f"rope_type={kind!r} (in rope_scaling or rope_parameters) cannot be represented; only "
            f"default, {', '.join(KINDS)} can"
        )
    factor = _positive_number(rope, "factor", 0)
    if kind == "linear":
        return RotaryScaling(rope_type=kind, factor=factor)
    original = rope.get("original_max_position_embeddings")
    return RotaryScaling(
        rope_type=kind,
        factor=factor,
        low_freq_factor=_positive_number(rope, "low_freq_factor", 0),
        high_freq_factor=_positive_number(rope, "high_freq_factor", 0),
        original_max_position_embeddings=context if original is None else int(original),
    )


def _integer(
    values: Mapping[str, Any], name: str, *, least: int = 1, default: int | None = None
) -> int:
    if name not in values and default is None:
        raise ValueError(f"{name} is missing; give a complete config.json")
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return value


def _optional_integer(values: Mapping[str, Any], name: str) -> int | None:
    return None if values.get(name) is None else _integer(values, name)


def _positive_number(values: Mapping[str, Any], name: str, default: float) -> float:
    """A number; a `default` of 0 stands for a number that is required."""
    value = values.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < float("inf"):
        example = f", e.g. {default:g}" if default else ""
        raise ValueError(f"{name}={value!r} must be a positive number{example}")
    return float(value)


def _boolean(values: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be true or false")
    return default if value is None else value


def _token_id(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else _integer({name: value}, name, least=0)
