"""Error messages for configurations that cannot be composed, with the valid keys or choices."""

import re
from collections.abc import Iterator
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mobilellm.cli.errors import listed, nearest
from mobilellm.hydra_app.errors import describe_configuration_error, parameters_of
from mobilellm.hydra_app.override_text import override_value
from mobilellm.hydra_app.synonyms import meant_by


def composition_message(
    error: Exception,
    loader: ConfigLoader,
    config_name: str,
    overrides: list[str],
    run_mode: RunMode,
) -> str:
    """The message for a configuration that cannot be composed.

    Args:
        error: the error of Hydra or OmegaConf.
        loader: Hydra's loader on the configuration folder.
        config_name: the root configuration.
        overrides: the overrides of the command line.
        run_mode: whether to compose a single run or a sweep.
    """
    text = str(error)
    options = getattr(error, "options", None)
    if options:
        group, _, choice = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        near = nearest(choice, options, count=len(options))
        return f"{group}={choice} is not known; use one of {listed(near, limit=40)}"
    if text.startswith("Cannot find primary config"):
        near = nearest(config_name, _root_names(loader), count=10)
        return f"conf/ has no {config_name}.yaml; use one of {listed(near)}"
    if override := getattr(error, "override", None):
        return (
            f"{override!r} is not a valid override ({text.splitlines()[0]}); write key=value, and "
            f"quote values with special characters: 'key=\"value\"'"
        )
    if "Cannot merge DictConfig with ListConfig" in f"{text} {error.__cause__}":
        given = next((o for o in overrides if override_value(o).startswith("{")), "a mapping")
        return (
            f"{given} is merged with the mapping that is there, and one of them has a list where "
            "the other has a mapping; give such keys one by one, such as "
            "search_space.model.num_blocks=[2,4]"
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key_message(unknown.group(1), loader, config_name, overrides, run_mode)
    cause = error.__cause__
    key = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", f"{text} {cause}")
    message = describe_configuration_error(error) or text
    reason = describe_configuration_error(cause) if cause is not None else None
    if reason and reason not in message:
        message = f"{message} {reason}"
    if key:
        known = _known_keys(loader, config_name, [], run_mode, depth=1)
        message += f"; nearest: {listed(nearest(key.group(1), known, count=3))}"
    return message.strip()


def _unknown_key_message(
    key: str, loader: ConfigLoader, config_name: str, overrides: list[str], run_mode: RunMode
) -> str:
    given = next((o for o in overrides if o.lstrip("+~").startswith(f"{key}=")), f"{key}=…")
    kept = [o for o in overrides if o != given]
    config = _compose_or_none(loader, config_name, kept, run_mode)
    parent, _, leaf = key.rpartition(".")
    if config is not None and parent:
        node = _select(config, parent)
        target = node.get("_target_") if hasattr(node, "get") else None
        if target and leaf in parameters_of(target):
            name = target.rpartition(".")[2]
            return f"{key} is not set in conf/, but {name} has it; write +{given}"
        if hasattr(node, "keys"):
            fields = [str(k) for k in node if k != "_target_"]
            fields += parameters_of(target) if target else []
            if meant := meant_by(leaf, fields):
                return f"{key} is not known; here it is {parent}.{meant}"
            near = nearest(leaf, fields, count=len(fields)) if fields else ["nothing to set"]
            new = "" if target else f" (+{given} adds a new key)"
            return f"{key} is not known; {parent} has {listed(near)}{new}"
    keys = _known_keys(loader, config_name, kept, run_mode)
    groups = [g for g in loader.list_groups("") if g != "hydra"]
    here = {known.partition(".")[0] for known in keys}
    group = key.partition(".")[0]
    if group in groups and group not in here:
        # A group of conf/ that other commands have.
        shown = listed([known for known in groups if known in here])
        return f"{group} cannot be chosen in this command; it has the groups {shown}"
    if meant := meant_by(leaf):
        return f"{key} is not known; here it is {meant}"
    near = nearest(key, [*groups, *keys], count=5, cutoff=0.5) or sorted(groups)
    return f"{key} is not known; nearest: {listed(near)}"


def _known_keys(
    loader: ConfigLoader,
    config_name: str,
    overrides: list[str],
    run_mode: RunMode,
    depth: int = 4,
) -> list[str]:
    config = _compose_or_none(loader, config_name, overrides, run_mode)
    return [] if config is None else [key for key in _dotted(config, depth) if "hydra" not in key]


def _compose_or_none(
    loader: ConfigLoader, config_name: str, overrides: list[str], run_mode: RunMode
) -> DictConfig | None:
    """The configuration with the overrides or, if another one is wrong too, without any."""
    for attempt in (overrides, []):
        try:
            return loader.load_configuration(config_name, list(attempt), run_mode=run_mode)
        except Exception:
            continue
    return None


def _root_names(loader: ConfigLoader) -> list[str]:
    """Names of the root configurations in conf/, without the schemas of the ConfigStore."""
    files = [source for source in loader.get_sources() if source.provider == "main"]
    return [name for source in files for name in source.list("", ObjectType.CONFIG)]


def _dotted(node: Any, depth: int, prefix: str = "") -> Iterator[str]:
    for key in node:
        name = f"{prefix}{key}"
        yield name
        child = node._get_node(key)
        if depth > 1 and isinstance(child, DictConfig) and isinstance(child._content, dict):
            yield from _dotted(child, depth - 1, f"{name}.")


def _select(config: DictConfig, path: str) -> Any:
    try:
        return OmegaConf.select(config, path)
    except Exception:
        return None
