"""Replacing layers of any `nn.Module` by name pattern; what was shared stays shared."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn


def replace_modules_(
    model: nn.Module,
    patterns: Sequence[str],
    make: Callable[[str, nn.Module], nn.Module],
    *,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Embedding),
) -> dict[str, nn.Module]:
    """Put `make(name, layer)` in the place of every layer that a pattern matches, in place.

    A module that stands at several places is replaced by one new module at all of them.

    Args:
        model: changed in place; nothing is changed where an error is raised.
        patterns: as file names are matched, over the names of `model.named_modules()`.
        make: gives the new layer for a name and the old layer, e.g. a `FactorizedLinear`.
        kinds: types of layers that are looked at.

    Returns:
        The new layers by the first name of each.

    Raises:
        ValueError: a pattern that matches nothing, or a layer that shares a parameter with one that
            stays: replacing it would untie the two.
    """
    places = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, kinds)
    ]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in places):
            near = ", ".join(name for name, _ in places[:5])
            raise ValueError(f"{pattern!r} matches no layer of the model; it has {near}, …")
    chosen = {id(m) for name, m in places if any(fnmatchcase(name, p) for p in patterns)}
    _check_ties(model, chosen)
    made: dict[int, nn.Module] = {}
    first: dict[str, nn.Module] = {}
    for name, module in places:
        if id(module) in chosen and id(module) not in made:
            made[id(module)] = first[name] = make(name, module)
    for name, module in places:
        if id(module) in made:
            model.set_submodule(name, made[id(module)])
    return first


def _check_ties(model: nn.Module, chosen: set[int]) -> None:
    """Raise ValueError where a parameter is used both by a chosen module and by another."""
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((name, module))
    for uses in owners.values():
        inside = [name for name, module in uses if id(module) in chosen]
        if inside and len(uses) > 1:
            names = ", ".join(name for name, _ in uses)
            raise ValueError(
                f"{inside[0]} shares its weight with another module ({names}): replacing it would "
                "untie them; use one module at both places, as FactorizedEmbedding, or leave it out"
            )
