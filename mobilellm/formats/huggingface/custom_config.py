"""The config.json of folders with a modelling file of their own, written and read."""

from collections.abc import Mapping
from typing import Any

from mobilellm.models.config import ModelConfig

MODEL_TYPE = "mobilellm_custom"
_MODULE, _CLASS = "modeling_mobilellm", "MobileLLMForCausalLM"
_TOKENS = ("bos_token_id", "eos_token_id")


def custom_config(config: ModelConfig) -> dict[str, Any]:
    """The contents of config.json.

    Args:
        config: of a model whose compressed matrices are all factorised.
    """
    fields = config.to_dict()
    tokens = {name: fields.pop(name) for name in _TOKENS}
    return {
        "architectures": [_CLASS],
        "auto_map": {
            "AutoConfig": f"{_MODULE}.MobileLLMConfig",
            "AutoModelForCausalLM": f"{_MODULE}.{_CLASS}",
        },
        "model_type": MODEL_TYPE,
        **tokens,
        "tie_word_embeddings": config.tie_word_embeddings,
        "model": fields | {"layer_order": list(config.layer_order)},
    }


def config_from_custom(values: Mapping[str, Any]) -> ModelConfig:
    """Convert the contents of a config.json that `custom_config` wrote.

    Raises:
        ValueError: a field is missing, unknown or invalid, or `layer_order` is not that of the
            sharing scheme.
    """
    fields = values.get("model")
    if not isinstance(fields, Mapping):
        raise ValueError('"model" must be an object with the architecture; export the model again')
    fields = dict(fields)
    order = fields.pop("layer_order", None)
    tokens = {name: values[name] for name in _TOKENS if values.get(name) is not None}
    config = ModelConfig.from_dict(fields | tokens)
    if order != list(config.layer_order):
        raise ValueError(
            f"layer_order={order} is not that of layer_sharing={config.layer_sharing!r}, "
            f"{list(config.layer_order)}; export the model again"
        )
    return config
