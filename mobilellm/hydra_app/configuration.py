"""Compose and instantiate the project's configuration, with errors that say what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra.utils
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import mobilellm
from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.composition_errors import composition_message
from mobilellm.hydra_app.errors import describe_configuration_error, instantiation_cause
from mobilellm.hydra_app.old_keys import refuse_old_keys
from mobilellm.hydra_app.root_schema import register_root_schema
from mobilellm.paths import expand_home_in_override


def config_folder() -> Path:
    """The project's conf/ folder: inside the installed package, or beside it in a clone.

    Raises:
        FileNotFoundError: neither exists.
    """
    package = Path(mobilellm.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"no conf/ folder in {package} or {package.parent}; install the package again, or run the "
        "command from a clone of the repository"
    )


@contextmanager
def config_loader(config_dir: Path | None = None) -> Iterator[ConfigLoader]:
    """Hydra's loader for `config_dir`; default: the project's conf/ folder."""
    folder = Path(config_dir or config_folder()).resolve()
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def compose(
    config_name: str, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> DictConfig:
    """The configuration of one run, without running anything.

    Args:
        config_name: a file of conf/ without `.yaml`.
        overrides: as on the command line, e.g. `["model=mobilellm_125m", "seed=1"]`.
        config_dir: the folder that holds the configuration; default: the project's conf/.

    Raises:
        ValueError: an override or a file is not valid; the message gives the nearest choices.
        FileNotFoundError: there is no conf/ folder.
    """
    with config_loader(config_dir) as loader:
        lines = [expand_home_in_override(override) for override in overrides]
        config = load(loader, config_name, lines, RunMode.RUN)
    with open_dict(config):
        del config["hydra"]
    return config


def load(
    loader: ConfigLoader, config_name: str, overrides: list[str], run_mode: RunMode
) -> DictConfig:
    """Compose a configuration that includes the node `hydra`; raises the errors of `compose`."""
    refuse_old_keys(overrides)
    register_root_schema(config_name)
    try:
        return loader.load_configuration(config_name, overrides, run_mode=run_mode)
    except (HydraException, OmegaConfBaseException) as error:
        message = composition_message(error, loader, config_name, overrides, run_mode)
        raise CommandError(message) from error


def plain_config(node: DictConfig) -> dict[str, Any]:
    """A configuration node as plain Python, with its interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True)  # pyright: ignore[reportReturnType]


def instantiate(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Build what a configuration node describes; lists and mappings are passed as plain Python.

    Raises:
        ValueError, TypeError, FileNotFoundError: the error of the constructor, prefixed with the
            path of the node in the configuration.
    """
    try:
        return hydra.utils.instantiate(node, *args, _convert_="all", **kwargs)
    except InstantiationException as error:
        path, cause = instantiation_cause(error)
        if cause is error or isinstance(cause, ImportError):
            raise CommandError(describe_configuration_error(error)) from error
        if not isinstance(cause, (ValueError, TypeError, FileNotFoundError)):
            raise cause from error
        kind = next(k for k in (CommandError, FileNotFoundError, ValueError, TypeError)
                    if isinstance(cause, k))  # fmt: skip
        raise kind(f"{path}: {cause}" if path else str(cause)) from error
