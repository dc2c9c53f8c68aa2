"""One trial of a sweep, and the overrides that it shares with the others."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mobilellm.hydra_app.override_text import override_key, shown_override


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    """As Hydra's sweeper passes them, without the sweeper's own."""
    config: DictConfig
    """The composed configuration, `hydra` included."""
    folder: Path | None
    """The run folder, if the check returned one."""
    swept: tuple[str, ...] = ()
    """The overrides in which the trials of the sweep differ, as they were typed."""

    @property
    def name(self) -> str:
        """The overrides that distinguish it from the other trials."""
        shown = self.swept or tuple(as_typed(self.config.hydra.overrides.task)) or self.overrides
        return " ".join(map(shown_override, shown)) or "(no overrides)"


def common_keys(hydra: Any) -> set[str]:
    """Overridden keys that have the same value in all trials of this job's sweep.

    Args:
        hydra: the node `hydra` of the job's configuration.
    """
    return set(hydra.job.config.override_dirname.exclude_keys)


def common_overrides(trials: Sequence[Trial]) -> list[str]:
    """Overrides that all trials of a sweep share, as they were typed."""
    if not trials or not trials[0].swept:
        return []
    overrides = as_typed(trials[0].config.hydra.overrides.task)
    common = common_keys(trials[0].config.hydra)
    return [override for override in overrides if override_key(override) in common]


def as_typed(overrides: Any) -> list[str]:
    """Hydra's record of the overrides as text, with `${…}` as it was typed.

    Args:
        overrides: a ListConfig.
    """
    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in plain]


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of the configuration without the node `hydra`."""
    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config
