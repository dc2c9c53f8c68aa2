"""Writes a `ModelConfig` as the config.json of Hugging Face.

Models are written as `LlamaForCausalLM` if possible; models with QK-norm as `Qwen3ForCausalLM`, and
models with a ReLU feed-forward layer as `ArceeForCausalLM`. The norm of Qwen3 has weights; with
weights of 1 it equals a norm without weights. Llama and Arcee require a width that is a multiple of
the number of heads, which models with pruned heads may not have: they are written as
`MistralForCausalLM`, which is Llama without this requirement. Models that none of these classes can
represent are refused.
"""

from typing import Any

from mobilellm.formats.huggingface.architectures import ARCHITECTURES
from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling


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
    shape = config.block_shapes[0]
    model_type = _model_type(config, shape.num_attention_heads)
    architecture = ARCHITECTURES[model_type]
    scaling = {}
    if isinstance(config.rope_scaling, RotaryScaling):
        scaling = config.rope_scaling.to_dict()
    values: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": architecture.activation,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta, **scaling},
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }
    if scaling:
        values["rope_scaling"] = scaling  # read by transformers before version 5
    if model_type in ("llama", "arcee"):
        values["mlp_bias"] = False
    if model_type == "mistral":
        values["sliding_window"] = None
    return values


def _model_type(config: ModelConfig, heads: int) -> str:
    if config.qk_norm != "none":
        return "qwen3"
    if config.hidden_size % heads == 0:
        return "arcee" if config.feed_forward == "relu" else "llama"
    if config.feed_forward == "relu":
        raise ValueError(
            f"no Hugging Face architecture has feed_forward='relu' with hidden_size="
            f"{config.hidden_size}, which is not a multiple of the {heads} query heads; "
            "--custom-code exports any model"
        )
    return "mistral"
