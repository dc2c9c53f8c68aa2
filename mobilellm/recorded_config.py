"""The configuration in a run's folder, in today's form, whichever version recorded it."""

from collections.abc import Mapping
from typing import Any

# Until version 0.2 the settings of two groups were nested: names below each group that held them.
NESTED = {"compression": ("compression",), "distillation": ("distillation", "step_by_step")}
# In compression the recipe was nested once more.
RECIPE = "recipe"


def flat_groups(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the groups as they are now, from one that may have been recorded before.

    Args:
        config: as recorded in a run's config.yaml.
    """
    result = dict(config)
    for group, names in NESTED.items():
        node = config.get(group)
        inner = _nested(node, names) if isinstance(node, Mapping) else None
        if inner is not None:
            recipe = inner.get(RECIPE)
            if isinstance(recipe, Mapping):
                settings = {k: v for k, v in inner.items() if k not in (RECIPE, "_target_")}
                inner = {**recipe, **settings}
            result[group] = dict(inner)
    return result


def _nested(node: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any] | None:
    found = (node.get(name) for name in names)
    return next((inner for inner in found if isinstance(inner, Mapping)), None)
