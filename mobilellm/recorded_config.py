"""Converts configurations that earlier versions recorded to the current form."""

from collections.abc import Mapping
from typing import Any

# Before version 0.2, the settings of these groups were nested below one of these names.
NESTED = {"compression": ("compression",), "distillation": ("distillation", "step_by_step")}
# The recipe of a compression was nested once more, below this name.
RECIPE = "recipe"
TARGET = "_target_"
# Earlier names of packages of this project, and the current ones.
RENAMED = {"compressor": "compression"}


def to_current_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a recorded configuration to the current form.

    Version 0.1 nested the groups `compression` and `distillation`, which are flat now, and
    `_target_` named classes by their files (`mobilellm.callbacks.loss_guard.LossGuardCallback`),
    not by their packages.

    Args:
        config: as recorded in a run's config.yaml.
    """
    return _with_public_targets(_flat_groups(config))


def class_name(target: Any) -> str:
    """Return the last part of a `_target_`: `TextData` of `mobilellm.data.TextData`."""
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
    """The public name of a class of this project; targets of other projects are unchanged."""
    parts = str(target).split(".")
    if parts[0] != "mobilellm" or len(parts) < 3:
        return target
    return f"mobilellm.{RENAMED.get(parts[1], parts[1])}.{parts[-1]}"


def _flat_groups(config: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for group, names in NESTED.items():
        node = config.get(group)
        inner = _inner_node(node, names) if isinstance(node, Mapping) else None
        if inner is not None:
            recipe = inner.get(RECIPE)
            if isinstance(recipe, Mapping):
                settings = {k: v for k, v in inner.items() if k not in (RECIPE, TARGET)}
                inner = {**recipe, **settings}
            result[group] = dict(inner)
    return result


def _inner_node(node: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any] | None:
    found = (node.get(name) for name in names)
    return next((inner for inner in found if isinstance(inner, Mapping)), None)


def has_setting(config: Any, key: str) -> bool:
    """Whether a configuration has a setting, or leaves out the group with it (null or empty)."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or not config:
            return True
        if part not in config:
            return False
        config = config[part]
    return True
