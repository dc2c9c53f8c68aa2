"""The configurations of trials: of ordinary runs, composed as `mobilellm train -m` does."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mobilellm.hydra_app.configuration import load
from mobilellm.hydra_app.override_text import override_key
from mobilellm.hydra_app.root_schema import SEARCH, SEARCH_KEYS
from mobilellm.hydra_app.trial import Trial, as_typed, without_hydra
from mobilellm.pipeline.search.setup import drop_search_keys
from mobilellm.pipeline.sweep import check_run

PRUNING = {"_target_": "mobilellm.callbacks.PruningCallback", "_partial_": True}
PLAIN_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
SWEEP = "hydra.mode=MULTIRUN"


@dataclass(frozen=True)
class TrialConfigs:
    """Composes trials that differ from the configuration of the search in some overrides.

    Args:
        loader: Hydra's loader.
        hydra_overrides: the overrides of Hydra's own settings, such as the launcher.
        overrides: all other overrides of the command line.
        is_pruned: whether bad trials end early.
    """

    loader: ConfigLoader
    hydra_overrides: tuple[str, ...]
    overrides: tuple[str, ...]
    is_pruned: bool = False

    @classmethod
    def of_command(cls, *, is_pruned: bool) -> "TrialConfigs":
        """Those of the command that is running."""
        job = HydraConfig.get()
        return cls(
            GlobalHydra.instance().config_loader(),
            tuple(as_typed(job.overrides.hydra)),
            tuple(as_typed(job.overrides.task)),
            is_pruned,
        )

    def compose(self, number: int, overrides: Sequence[str]) -> Trial:
        """The trial of this number, with its run folder.

        Args:
            number: of the trial.
            overrides: in which it differs from the other trials.

        Raises:
            ValueError, TypeError, FileNotFoundError: the configuration is not valid, or the run
                folder is in use.
        """
        lines = [*self.hydra_overrides, SWEEP, *self.overrides, *overrides]
        of_run = (one for one in self.overrides if not is_of_search(one))
        given = [*of_run, *overrides]
        config = load(self.loader, SEARCH, lines, RunMode.RUN)
        drop_search_keys(config)
        own = {override_key(override) for override in overrides}
        with read_write(config), open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
            config.hydra.overrides.task = given
            shared = {override_key(one) for one in given} - own
            config.hydra.job.config.override_dirname.exclude_keys = sorted(shared)
        with current_job(config):
            folder = check_run(without_hydra(config))
        if self.is_pruned:
            with read_write(config), open_dict(config):
                config.callbacks.pruning = OmegaConf.create(PRUNING)
        return Trial(tuple(given), config, Path(folder), tuple(overrides))


def is_of_search(override: str) -> bool:
    """Whether an override sets something that only the search has."""
    return override_key(override).partition(".")[0] in SEARCH_KEYS


@contextmanager
def current_job(config: DictConfig) -> Iterator[None]:
    """Let `config` be the configuration of Hydra's current job inside a `with` block."""
    instance = HydraConfig.instance()
    before: Any = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = before


def override_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as overrides of the command line."""
    return tuple(f"{name}={value_text(value)}" for name, value in settings.items())


def value_text(value: Any) -> str:
    """A value in the syntax of Hydra's command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, str):
        return value if PLAIN_TEXT.fullmatch(value) else json.dumps(value, allow_nan=False)
    return repr(value)
