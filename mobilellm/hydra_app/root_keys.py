"""The keys at the root of each root configuration in conf/, with the types and ranges of values.

Groups (model, data, …) are checked by the classes that they build. A new key needs a row here, and
a value with a comment in the YAML file.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from mobilellm.cli.errors import CommandError, listed, nearest
from mobilellm.hydra_app.old_keys import refuse_old_nodes
from mobilellm.hydra_app.root_schema import RunConfig
from mobilellm.hydra_app.synonyms import meant_by
from mobilellm.paths import expand_home_folders
from mobilellm.ranges import ANYWHERE, MAX_BUDGET, MAX_SEED, TEMPERATURE, Range, check_value

Rows = dict[str, tuple[Any, Range]]

POSITIVE = Range(at_least=1)
SEED = Range(at_least=0, cap=MAX_SEED)

TRAIN: Rows = {
    "experiment_name": (str, ANYWHERE),
    "output_dir": (str, ANYWHERE),
    "prepared_dir": (str, ANYWHERE),
    "seed": (int, SEED),
    "sequence_length": (int, POSITIVE),
    "tokens_per_step": (int | Literal["auto"], POSITIVE),
    "micro_batch_size": (int | Literal["auto", "measure"], POSITIVE),
    "max_tokens": (float | None, Range(above=0, cap=MAX_BUDGET, remedy="null sets no limit")),
    "tokens_per_parameter": (float | None, Range(above=0, cap=1e9, remedy="null sets no limit")),
    "max_flops": (float | None, Range(above=0, cap=1e29, remedy="null sets no limit")),
    "epochs": (float | None, Range(above=0, cap=1e9, remedy="null sets no limit")),
    "max_steps": (int | None, Range(at_least=1, remedy="null sets no limit")),
    "max_seconds": (float | None, Range(above=0, remedy="null sets no limit")),
    "horizons": (list[float] | None, Range(above=0, below=1, remedy="null trains one budget")),
    "gradient_clip_norm": (float | None, Range(above=0, remedy="null disables clipping")),
    "initialization": (Mapping, ANYWHERE),
    "validation_interval_tokens": (
        float | None,
        Range(above=0, remedy="null validates 10 times per run"),
    ),
    "validation_tokens": (float | None, Range(at_least=1, remedy="null uses the whole split")),
    "log_interval_steps": (int, POSITIVE),
    "init_from": (str | None, ANYWHERE),
    "init_layers": (list[int] | None, Range(at_least=0)),
    "extend_from": (str | None, ANYWHERE),
    "resume": (bool | None, ANYWHERE),
    "learning_rate_probe": (bool, ANYWHERE),
    "learning_rate_probe_factors": (list[float], Range(above=0)),
    "learning_rate_probe_share": (float, Range(above=0, at_most=1)),
    "learning_rate_probe_seed": (int, SEED),
    "learning_rate_probe_widenings": (int, Range(at_least=0, cap=100, remedy="0 tries no others")),
}
SEARCH: Rows = TRAIN | {"search": (Mapping, ANYWHERE), "search_space": (Mapping, ANYWHERE)}
EXPLAIN: Rows = {
    "init_from": (str | None, ANYWHERE),
    "init_layers": (list[int] | None, Range(at_least=0)),
    "format": (Literal["table", "json"], ANYWHERE),
    "sequence_length": (int, POSITIVE),
    "micro_batch_size": (int, Range(at_least=1, cap=1_000_000)),
    "max_tokens": (float | None, Range(above=0, cap=1e18)),
    "tokens_per_parameter": (float | None, Range(above=0, cap=1e9)),
    "max_flops": (float | None, Range(above=0, cap=1e29)),
    "flops_per_second": (float | None, Range(above=0, cap=1e24)),
    "scaling": (Mapping, ANYWHERE),
}
COMPRESS: Rows = {
    "prepared_dir": (str, ANYWHERE),
    "sequence_length": (int, Range(at_least=1, cap=1_000_000)),
    "micro_batch_size": (int, Range(at_least=1, cap=1_000_000)),
    "validation_tokens": (float | None, Range(at_least=1, remedy="null uses the whole split")),
    "seed": (int, SEED),
    "device": (Literal["cpu", "cuda", "mps"], ANYWHERE),
    "low_rank_twin": (bool, ANYWHERE),
    "latency": (bool, ANYWHERE),
    "prefill_tokens": (int, Range(at_least=1, cap=1_000_000)),
    "decode_tokens": (int, Range(at_least=1, cap=1_000_000)),
}
EXTRACT: Rows = {
    "layers": (list[int] | None, Range(at_least=0)),
    "units": (Literal["leading", "important"], ANYWHERE),
    "calibration_tokens": (int, Range(at_least=1, cap=1_000_000_000)),
    "prepared_dir": (str, ANYWHERE),
    "sequence_length": (int, Range(at_least=1, cap=1_000_000)),
    "micro_batch_size": (int, Range(at_least=1, cap=1_000_000)),
    "validation_tokens": (float | None, Range(at_least=1, remedy="null uses the whole split")),
    "seed": (int, SEED),
}
COORDINATE_CHECK: Rows = {
    "widths": (list[int], Range(at_least=1, cap=2**24)),
    "depth": (int, Range(at_least=1, cap=10_000)),
    "depths": (list[int], Range(at_least=1, cap=10_000)),
    "width": (int, Range(at_least=1, cap=2**24)),
    "steps": (int, Range(at_least=1, cap=1_000_000)),
    "tokens_per_step": (int, Range(at_least=1, cap=1_000_000)),
    "sequence_length": (int, Range(at_least=1, cap=1_000_000)),
    "seeds": (int, Range(at_least=1, cap=1_000_000)),
    "initialization": (Mapping, ANYWHERE),
    "tolerance": (float, Range(above=0, cap=1_000)),
    "compare_with_standard": (bool, ANYWHERE),
    "text": (str | None, ANYWHERE),
    "out": (str, ANYWHERE),
}
PREPARE_DATA: Rows = {
    "prepared_dir": (str, ANYWHERE),
    "show": (int, Range(at_least=0, cap=10_000, remedy="0 shows none")),
}
PREPARE_LOGITS: Rows = {
    "prepared_dir": (str, ANYWHERE),
    "sequence_length": (int, POSITIVE),
    "method": (str, ANYWHERE),
    "k": (int, POSITIVE),
    "seed": (int | None, SEED),
    "precision": (str, ANYWHERE),
    "packing": (str, ANYWHERE),
    "temperature": (float, TEMPERATURE),
    "out": (str | None, ANYWHERE),
    "micro_batch_size": (int, Range(at_least=1, cap=1_000_000)),
    "accelerator": (str, ANYWHERE),
    "teacher_precision": (str, ANYWHERE),
    "num_threads": (int | None, Range(at_least=1, cap=4096)),
    "windows_per_shard": (int | None, POSITIVE),
}
TRAIN_GROUPS = tuple(
    f.name for f in fields(RunConfig) if f.name not in TRAIN and f.type == dict[str, Any]
)
# The rows and groups of each root configuration; a group that is not in `OPTIONAL` is required.
ROOTS: dict[str, tuple[Rows, tuple[str, ...]]] = {
    "train": (TRAIN, TRAIN_GROUPS),
    "search": (SEARCH, TRAIN_GROUPS),
    "explain": (EXPLAIN, ("model", "optimizer", "adapter", "trainer")),
    "coordinate_check": (COORDINATE_CHECK, ("model", "optimizer", "parametrization")),
    "compress": (COMPRESS, ("model", "data", "compression")),
    "extract": (EXTRACT, ("model", "data")),
    "prepare_data": (PREPARE_DATA, ("model", "data")),
    "prepare_logits": (PREPARE_LOGITS, ("model", "data")),
}
OPTIONAL = ("parametrization", "compression", "distillation", "adapter", "callbacks", "logger")
# Groups that a command fills in from the folder of a model, so that they may be empty in conf/.
FILLED_IN = {
    "compress": ("model", "data"),
    "extract": ("model", "data"),
    "prepare_logits": ("model",),
}


def checked_config(root: str, cfg: DictConfig) -> DictConfig:
    """Check the root keys and expand `~` in paths; every Hydra command calls this first.

    Args:
        root: the root configuration, a file of conf/ without `.yaml`.
        cfg: the composed configuration; it is not modified.

    Raises:
        ValueError: a root key is unknown or missing, or a value is out of range.
    """
    plain: Any = expand_home_folders(OmegaConf.to_container(cfg, resolve=False))
    expanded: Any = OmegaConf.create(plain)
    refuse_old_nodes(plain)
    _check_names(plain, root)
    for name, (hint, allowed) in ROOTS[root][0].items():
        value = expanded[name]
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        check_value(name, value, hint, allowed)
    return expanded


def _check_names(config: Mapping[str, Any], root: str) -> None:
    rows, groups = ROOTS[root]
    for key in config:
        if key not in rows and key not in groups:
            raise CommandError(_unknown_key(key, [*rows, *groups]))
    for name in rows:
        if name not in config:
            raise CommandError(f"{name} is required and cannot be removed; set {name}=…")
    for group in groups:
        node = config.get(group)
        is_given = isinstance(node, Mapping) and "_target_" in node
        if group == "model" and (config.get("init_from") or config.get("extend_from")):
            continue
        if not is_given and group not in (*OPTIONAL, *FILLED_IN.get(root, ())):
            raise CommandError(
                f"{group} is required and cannot be removed; choose one with {group}=…, or give "
                f"{group}._target_"
            )


def _unknown_key(key: str, known: list[str]) -> str:
    """The message for a key that does not exist, with the key that the user probably means."""
    meant = meant_by(key)
    if meant is not None:
        return f"{key} is not known; here it is {meant}"
    return f"{key} is not known; nearest: {listed(nearest(key, known, count=5))}"
