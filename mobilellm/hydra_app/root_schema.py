"""The root schemas of conf/train.yaml and conf/search.yaml: a misspelt key is an error."""

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class RunConfig:
    """Keys of a run; conf/train.yaml contains their default values and describes them."""

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    parametrization: dict[str, Any] = field(default_factory=dict)
    compression: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)

    experiment_name: str = MISSING
    output_dir: str = MISSING
    prepared_dir: str = MISSING
    seed: int = MISSING
    sequence_length: int = MISSING
    tokens_per_step: Any = MISSING
    micro_batch_size: Any = MISSING
    max_tokens: float | None = MISSING
    tokens_per_parameter: float | None = MISSING
    max_flops: float | None = MISSING
    epochs: float | None = MISSING
    horizons: list[float] | None = MISSING
    max_steps: int | None = MISSING
    max_seconds: float | None = MISSING
    gradient_clip_norm: float | None = MISSING
    initialization: dict[str, Any] = field(default_factory=dict)
    validation_interval_tokens: float | None = MISSING
    validation_tokens: float | None = MISSING
    log_interval_steps: int = MISSING
    init_from: str | None = MISSING
    extend_from: str | None = MISSING
    init_layers: list[int] | None = MISSING
    # Not bool, for which OmegaConf would accept -1 and 2 as true.
    resume: Any = MISSING
    learning_rate_probe: Any = MISSING
    learning_rate_probe_factors: list[float] = MISSING
    learning_rate_probe_share: float = MISSING
    learning_rate_probe_seed: int = MISSING
    learning_rate_probe_widenings: int = MISSING


@dataclass
class SearchConfig(RunConfig):
    """Keys of a search: those of its runs, and those of conf/search.yaml."""

    search: dict[str, Any] = field(default_factory=dict)
    search_space: dict[str, Any] = field(default_factory=dict)


SEARCH = "search"
"""The root configuration of a search, which includes that of a run."""
SEARCH_KEYS = tuple(
    f.name for f in fields(SearchConfig) if f.name not in {g.name for g in fields(RunConfig)}
)


def register_root_schema(config_name: str = "train") -> None:
    """Make the schema known to Hydra as `run_config`, the name in conf/train.yaml.

    Args:
        config_name: the root configuration that is composed next.
    """
    schema = SearchConfig if config_name == SEARCH else RunConfig
    ConfigStore.instance().store(name="run_config", node=schema)
