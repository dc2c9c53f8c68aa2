"""The architectures of `transformers` that `ModelConfig` can represent, and checks of the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class NotRepresentable(ValueError):
    """Raised for a valid model whose architecture `ModelConfig` cannot represent."""


@dataclass(frozen=True)
class Architecture:
    """What a `model_type` of config.json implies."""

    class_name: str
    """The class in `transformers`."""
    activation: str = "silu"
    """Activation function of the feed-forward layer."""
    qk_norm: str = "none"
    """As in `ModelConfig`."""
    rotates_pairs: bool = False
    """Whether the rotary embedding rotates neighbouring entries (see `rotary_layout`)."""
    tied: bool = False
    """Whether head and embedding are tied if config.json does not say so."""
    rope_theta: float = 1e4
    """The base of the rotary embedding if config.json does not say it."""
    rms_norm_eps: float = 1e-6
    """The same for the term in the norms."""
    window: int | None = None
    """The same for the number of tokens that attention is limited to; None: no limit."""
    context: int = 2048
    """The same for the context length."""


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM"),
    "mistral": Architecture("MistralForCausalLM", window=4096, context=131_072),
    "qwen3": Architecture("Qwen3ForCausalLM", qk_norm="rms", context=32_768),
    "arcee": Architecture("ArceeForCausalLM", activation="relu", rms_norm_eps=1e-5, context=4096),
    "mobilellm": Architecture("MobileLLMForCausalLM"),
    "llama4_text": Architecture(
        "Llama4ForCausalLM", qk_norm="l2", rotates_pairs=True, rope_theta=5e5, rms_norm_eps=1e-5,
        window=8192, context=131_072,
    ),
    "smollm3": Architecture("SmolLM3ForCausalLM", tied=True, rope_theta=2e6, context=32_768),
}  # fmt: skip
# Fields whose value in `transformers` is another one if they are left out of config.json.
_NOPE_INTERVAL = 4


def architecture_of(values: Mapping[str, Any]) -> Architecture:
    """The architecture of a config.json.

    Raises:
        NotRepresentable: the architecture, or a setting of it, cannot be represented; the message
            names the field.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise NotRepresentable(
            f"model_type={model_type!r} cannot be represented; "
            f"use one of {', '.join(ARCHITECTURES)}"
        )
    found = ARCHITECTURES[model_type]
    plain = {
        "attention_bias": not values.get("attention_bias"),
        "mlp_bias": not values.get("mlp_bias"),
        "use_sliding_window": not values.get("use_sliding_window"),
        "sliding_window": model_type != "mistral" or _is_whole(values, found),
        "quantization_config": not values.get("quantization_config"),
        "hidden_act": values.get("hidden_act", found.activation) == found.activation,
    }
    for name, is_plain in plain.items():
        if not is_plain:
            raise NotRepresentable(
                f"{name}={values.get(name, found.window)!r} cannot be represented by this model "
                "family"
            )
    _check_layers(values, model_type)
    return found


def _is_whole(values: Mapping[str, Any], found: Architecture) -> bool:
    """Whether the sliding window of attention covers the whole context."""
    window = values.get("sliding_window", found.window)
    context = values.get("max_position_embeddings", found.context)
    return window is None or (
        isinstance(window, int) and isinstance(context, int) and window >= context
    )


def _check_layers(values: Mapping[str, Any], model_type: str) -> None:
    """Check that all layers are alike: with rotary embedding, full attention and no experts."""
    has_nope = model_type in ("llama4_text", "smollm3")
    rotated = values.get("no_rope_layers")
    if has_nope and not rotated:
        interval = values.get("no_rope_layer_interval", _NOPE_INTERVAL)
        layers = values.get("num_hidden_layers")
        if isinstance(layers, int) and isinstance(interval, int) and layers >= interval > 0:
            raise NotRepresentable(
                f"no_rope_layer_interval={interval} cannot be represented: every {interval}th "
                "layer would have no rotary embedding; only models in which all layers have it can"
            )
    elif has_nope and (not isinstance(rotated, list) or not all(rotated)):
        raise NotRepresentable(
            f"no_rope_layers={rotated!r} cannot be represented: layers without rotary embedding "
            "(0) are mixed with others; only models in which all layers have it can"
        )
    if model_type == "llama4_text":
        _check_experts(values)
        return
    kinds = values.get("layer_types") or []
    if any(kind != "full_attention" for kind in kinds):
        raise NotRepresentable(
            f"layer_types={sorted(set(map(str, kinds)))} cannot be represented; only full "
            "attention can"
        )


def _check_experts(values: Mapping[str, Any]) -> None:
    """Check that no layer of a Llama 4 model is a mixture of experts."""
    layers = values.get("moe_layers")
    if layers is None and values.get("interleave_moe_layer_step", 1):
        layers = "null"
    if layers:
        raise NotRepresentable(
            f"moe_layers={layers} cannot be represented: they are mixtures of experts; only models "
            "without them (moe_layers=[]) can"
        )
