"""The adapter that a configuration describes, and the model with it; torch only if there is one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.models import ModelConfig

if TYPE_CHECKING:
    from mobilellm.adapters import Adapter


def configured_adapter(config: Mapping[str, Any]) -> "Adapter | None":
    """The adapter of a resolved configuration; those of earlier versions have no such group.

    Raises:
        ValueError: a value is out of range, or the node describes something else.
    """
    node = config.get("adapter")
    if not node:
        return None
    # `explain` without an adapter must not load torch.
    from mobilellm.adapters import Adapter

    found = instantiate({"adapter": node})["adapter"]
    if not isinstance(found, Adapter):
        given = node.get("_target_") if isinstance(node, Mapping) else node
        raise ValueError(
            f"adapter._target_={given} makes no adapter; use adapter=lora, qlora or dora"
        )
    return found


def adapted_config(config: Mapping[str, Any], model: ModelConfig) -> ModelConfig:
    """The model with the adapter of a resolved configuration; the model itself without one.

    Raises:
        ValueError: the adapter is not valid, or does not fit the model.
    """
    adapter = configured_adapter(config)
    if adapter is None:
        return model
    try:
        return adapter.configured(model)
    except ValueError as error:
        raise ValueError(f"adapter: {error}") from error
