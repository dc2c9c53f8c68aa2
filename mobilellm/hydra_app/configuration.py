"""Compose and instantiate the repository's configuration, with errors that say what to do."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.cli.errors import (
    CommandError,
    describe_error,
    instantiation_cause,
    listed,
    nearest,
    parameters_of,
)
from mobilellm.cli.synonyms import meant_by
from mobilellm.paths import home_in_override

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.types import RunMode
    from omegaconf import DictConfig


def config_folder() -> Path:
    """The clone's conf/ folder: beside the running script's folder, or beside the package.

    Raises:
        FileNotFoundError: neither exists, e.g. because only the wheel is installed.
    """
    candidates = [Path(sys.argv[0]).resolve().parents[1], Path(__file__).resolve().parents[2]]
    for parent in candidates:
        if (parent / "conf").is_dir():
            return parent / "conf"
    raise FileNotFoundError(
        f"no conf/ folder in {candidates[0]} or {candidates[1]}; the commands need a clone of the "
        "repository, not only the installed package: run them from a clone after `make install`"
    )


@contextmanager
def config_loader(config_dir: Path | None = None) -> "Iterator[ConfigLoader]":
    """Hydra's loader on `config_dir`, the clone's conf/ folder unless given."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_plugins()
    folder = Path(config_dir or config_folder()).resolve()
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def register_plugins() -> None:
    """Make the root schema and our launchers known to Hydra."""
    from mobilellm.hydra_app.run_config import register_run_config
    from mobilellm.launchers.local import launcher as local
    from mobilellm.launchers.slurm import launcher as slurm
    from mobilellm.launchers.sweep_launcher import register

    register_run_config()
    register(local.LocalLauncher, local)
    register(slurm.SlurmLauncher, slurm)


def compose(
    config_name: str, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> "DictConfig":
    """The configuration of one run, without running anything.

    Args:
        config_name: a file of conf/ without `.yaml`.
        overrides: as on the command line, e.g. `["model=mobilellm_125m", "seed=1"]`.
        config_dir: the folder that holds the configuration; default: the clone's conf/.

    Raises:
        ValueError: an override or a file that does not compose, with the nearest choices.
        FileNotFoundError: there is no conf/ folder.
    """
    from hydra.types import RunMode
    from omegaconf import open_dict

    with config_loader(config_dir) as loader:
        lines = [home_in_override(override) for override in overrides]
        config = load(loader, config_name, lines, RunMode.RUN)
    with open_dict(config):
        del config["hydra"]
    return config


def load(
    loader: "ConfigLoader", config_name: str, overrides: list[str], run_mode: "RunMode"
) -> "DictConfig":
    """Compose with `hydra` in it; errors as in `compose`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return loader.load_configuration(config_name, overrides, run_mode=run_mode)
    except (HydraException, OmegaConfBaseException) as error:
        message = _composition_message(error, loader, config_name, overrides, run_mode)
        raise CommandError(message) from error


def instantiate(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Build what a configuration node describes; lists and mappings arrive as plain Python.

    Raises:
        ValueError, TypeError, FileNotFoundError: the constructor's own error, with the node's
            path in the configuration in front.
    """
    import hydra.utils
    from hydra.errors import InstantiationException

    try:
        return hydra.utils.instantiate(node, *args, _convert_="all", **kwargs)
    except InstantiationException as error:
        path, cause = instantiation_cause(error)
        if cause is error or isinstance(cause, ImportError):
            raise CommandError(describe_error(error)) from error
        if not isinstance(cause, (ValueError, TypeError, FileNotFoundError)):
            raise cause from error
        kind = next(k for k in (CommandError, FileNotFoundError, ValueError, TypeError)
                    if isinstance(cause, k))  # fmt: skip
        raise kind(f"{path}: {cause}" if path else str(cause)) from error


def _composition_message(
    error: Exception,
    loader: "ConfigLoader",
    config_name: str,
    overrides: list[str],
    run_mode: "RunMode",
) -> str:
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
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key_message(unknown.group(1), loader, config_name, overrides, run_mode)
    cause = error.__cause__
    key = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", f"{text} {cause}")
    message = describe_error(error) or text
    reason = describe_error(cause) if cause is not None else None
    if reason and reason not in message:
        message = f"{message} {reason}"
    if key:
        known = _known_keys(loader, config_name, [], run_mode, depth=1)
        message += f"; nearest: {listed(nearest(key.group(1), known, count=3))}"
    return message.strip()


def _unknown_key_message(
    key: str, loader: "ConfigLoader", config_name: str, overrides: list[str], run_mode: "RunMode"
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
    if meant := meant_by(leaf):
        return f"{key} is not known; here it is {meant}"
    keys = _known_keys(loader, config_name, kept, run_mode)
    groups = [g for g in loader.list_groups("") if g != "hydra"]
    near = nearest(key, [*groups, *keys], count=5, cutoff=0.5) or sorted(groups)
    return f"{key} is not known; nearest: {listed(near)}"


def _known_keys(
    loader: "ConfigLoader",
    config_name: str,
    overrides: list[str],
    run_mode: "RunMode",
    depth: int = 4,
) -> list[str]:
    config = _compose_or_none(loader, config_name, overrides, run_mode)
    return [] if config is None else [key for key in _dotted(config, depth) if "hydra" not in key]


def _compose_or_none(
    loader: "ConfigLoader", config_name: str, overrides: list[str], run_mode: "RunMode"
) -> "DictConfig | None":
    """With the overrides, else (another of them is wrong too) without."""
    for attempt in (overrides, []):
        try:
            return loader.load_configuration(config_name, list(attempt), run_mode=run_mode)
        except Exception:
            continue
    return None


def _root_names(loader: "ConfigLoader") -> list[str]:
    """Configurations at the root that are files; schemas in the ConfigStore are not."""
    from hydra.core.object_type import ObjectType

    files = [source for source in loader.get_sources() if source.provider == "main"]
    return [name for source in files for name in source.list("", ObjectType.CONFIG)]


def _dotted(node: Any, depth: int, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig

    for key in node:
        name = f"{prefix}{key}"
        yield name
        child = node._get_node(key)
        if depth > 1 and isinstance(child, DictConfig) and isinstance(child._content, dict):
            yield from _dotted(child, depth - 1, f"{name}.")


def _select(config: "DictConfig", path: str) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.select(config, path)
    except Exception:
        return None
