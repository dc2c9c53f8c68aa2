"""Conversion between `ModelConfig` and the config.json of Hugging Face.

Models are written as `LlamaForCausalLM` if possible; models with QK-norm as `Qwen3ForCausalLM`, and
models with a ReLU feed-forward layer as `ArceeForCausalLM`. The norm of Qwen3 has weights; with
weights of 1 it equals a norm without weights. Models that none of these classes can represent are
refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.models.config import ModelConfig
from mobilellm.models.saved_config import CONFIG_FILE, read_json

# For each model_type: the class in `transformers`, its activation function and its QK-norm.
_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "silu", "none"),
    "qwen3": ("Qwen3ForCausalLM", "silu", "rms"),
    "arcee": ("ArceeForCausalLM", "relu", "none"),
    "mobilellm": ("MobileLLMForCausalLM", "silu", "none"),
}


class NotRepresentable(ValueError):
    """Raised for a valid model whose architecture `ModelConfig` cannot represent."""


def read_huggingface_config(folder: str | Path) -> ModelConfig:
    """Read the configuration of the model in a Hugging Face folder.

    Raises:
        FileNotFoundError: the folder or its config.json does not exist.
        NotRepresentable: the architecture is not supported.
        ValueError: the file is damaged, or has an invalid value.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        return config_from_huggingface(read_json(path))
    except NotRepresentable as error:
        raise NotRepresentable(f"{path}: {error}") from error
    except ValueError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ValueError(message) from error


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """Convert the contents of a Hugging Face config.json to a `ModelConfig`.

    Raises:
        NotRepresentable: the architecture is not supported.
        ValueError: a value is missing or invalid.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        raise NotRepresentable(
            f"model_type={model_type!r} cannot be represented; "
            f"use one of {', '.join(_ARCHITECTURES)}"
        )
    _, activation, qk_norm = _ARCHITECTURES[model_type]
    _check_representable(values, activation)
    # Meta's code writes share_embedding, even if model_type is llama.
    tied = _boolean(values, "share_embedding") or _boolean(values, "tie_word_embeddings")
    return ModelConfig(
        vocab_size=_integer(values, "vocab_size"),
        hidden_size=_integer(values, "hidden_size"),
        intermediate_size=_integer(values, "intermediate_size"),
        num_blocks=_integer(values, "num_hidden_layers"),
        num_attention_heads=_integer(values, "num_attention_heads"),
        num_key_value_heads=_optional_integer(values, "num_key_value_heads"),
        head_dim=_optional_integer(values, "head_dim"),
        block_repeats=2 if _boolean(values, "layer_sharing") else 1,
        tie_word_embeddings=tied,
        max_position_embeddings=_integer(values, "max_position_embeddings", default=2048),
        rope_theta=_positive_number(_rotary_settings(values), "rope_theta", 1e4),
        rms_norm_eps=_positive_number(values, "rms_norm_eps", 1e-6),
        feed_forward="swiglu" if activation == "silu" else "relu",
        qk_norm=qk_norm,
        eos_token_id=_token_id(values, "eos_token_id", 2),
        bos_token_id=_token_id(values, "bos_token_id", 1),
    )


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """Return the contents of a Hugging Face config.json for the model, with shared blocks unrolled.

    Raises:
        ValueError: no architecture of `transformers` can represent the model.
    """
    if config.share_kv == "first" and config.is_shared:
        raise ValueError(
            "no Hugging Face architecture has share_kv='first'; only 'own' can be exported"
        )
    if len(set(config.block_shapes)) > 1:
        raise ValueError(
            "no Hugging Face architecture has blocks of different sizes; "
            "only blocks of equal sizes can be exported"
        )
    if config.feed_forward == "relu" and config.qk_norm != "none":
        raise ValueError(
            f"no Hugging Face architecture has feed_forward='relu' with qk_norm={config.qk_norm!r}"
            "; a model with only one of the two can be exported"
        )
    model_type = "arcee" if config.feed_forward == "relu" else "llama"
    if config.qk_norm != "none":
        model_type = "qwen3"
    architecture, activation, _ = _ARCHITECTURES[model_type]
    shape = config.block_shapes[0]
    values: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": activation,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }
    if model_type != "qwen3":
        values["mlp_bias"] = False
    return values


def _check_representable(values: Mapping[str, Any], activation: str) -> None:
    refused = {
        "attention_bias": not values.get("attention_bias"),
        "mlp_bias": not values.get("mlp_bias"),
        "use_sliding_window": not values.get("use_sliding_window"),
        "quantization_config": not values.get("quantization_config"),
        "hidden_act": values.get("hidden_act", activation) == activation,
    }
    for name, is_plain in refused.items():
        if not is_plain:
            raise NotRepresentable(
                f"{name}={values[name]!r} cannot be represented by this model family"
            )
    for name in ("rope_scaling", "rope_parameters"):
        rope = values.get(name) or {}
        if not isinstance(rope, Mapping):
            raise ValueError(
                f"{name}={rope!r} must be null or an object such as "
                '{"rope_type": "default"}; only unscaled rotary embedding is supported'
            )
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise NotRepresentable(
                f"{name}={rope} cannot be represented; only unscaled rotary embedding is supported"
            )
    rope = _rotary_settings(values)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise NotRepresentable(
            f"partial_rotary_factor={rope['partial_rotary_factor']} cannot be represented; "
            "only rotation of whole heads is supported"
        )


def _rotary_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the rotary embedding, from the fields of transformers 5 or earlier versions."""
    names = ("rope_theta", "partial_rotary_factor")
    rope = {name: values[name] for name in names if values.get(name) is not None}
    return rope | (values.get("rope_scaling") or {}) | (values.get("rope_parameters") or {})


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
    value = values.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a positive number, e.g. {default:g}")
    return float(value)


def _boolean(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be true or false")
    return bool(value)


def _token_id(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, list):
        if len(value) != 1:
            raise NotRepresentable(f"{name}={value} names several tokens; keep one of them")
        value = value[0]
    return _integer({name: value}, name, least=0)
