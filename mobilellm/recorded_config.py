"""Converts configurations that earlier versions recorded to the current form."""

from collections.abc import Mapping
from typing import Any

# Until version 0.2 the settings of two groups were nested: names below each group that held them.
NESTED = {"compression": ("compression",), "distillation": ("distillation", "step_by_step")}
# In compression the recipe was nested once more.
RECIPE = "recipe"
TARGET = "_target_"
# Former names of packages of this project.
RENAMED = {"compressor": "compression"}


def in_todays_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with flat groups, and with classes named by their packages.

    Version 0.1 nested compression and distillation, and named classes by their files
    (`mobilellm.callbacks.loss_guard.LossGuardCallback`).

    Args:
        config: as recorded in a run's config.yaml.
    """
    return _with_public_targets(_flat_groups(config))


def class_name(target: Any) -> str:
    """`TextData` of `mobilellm.data.TextData`."""
    return str(target).rpartition(".")[2]


def _with_public_targets(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _public_target(value) if key == TARGET else _with_public_targets(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_with_public_targets(item) for item in node]
    return node


def _public_target(target: Any) -> Any:
    """The class as its package offers it; a target of another project is left as it is."""
    parts = str(target).split(".")
    if parts[0] != "mobilellm" or len(parts) < 3:
        return target
    return f"mobilellm.{RENAMED.get(parts[1], parts[1])}.{parts[-1]}"


def _flat_groups(config: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for group, names in NESTED.items():
        node = config.get(group)
        inner = _nested(node, names) if isinstance(node, Mapping) else None
        if inner is not None:
            recipe = inner.get(RECIPE)
            if isinstance(recipe, Mapping):
                settings = {k: v for k, v in inner.items() if k not in (RECIPE, TARGET)}
                inner = {**recipe, **settings}
            result[group] = dict(inner)
    return result


def _nested(node: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any] | None:
    found = (node.get(name) for name in names)
    return next((inner for inner in found if isinstance(inner, Mapping)), None)
