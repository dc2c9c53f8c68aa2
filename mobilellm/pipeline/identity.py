"""The identity of a run: a hash of the settings that can change its result, and its folder.

The name of a run depends only on its configuration, not on the time, so that a job that is started
again finds its folder.
"""

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class, get_object
from omegaconf import OmegaConf

from mobilellm.evaluation.device_profile import read_profile
from mobilellm.hydra_app.override_text import (
    is_shown,
    override_key,
    override_value,
    short_keys,
    shown_value,
)
from mobilellm.paths import user_path
from mobilellm.pipeline.probe_factors import possible_factors
from mobilellm.recorded_config import TARGET, class_name, has_setting, to_current_form
from mobilellm.run_folder import CONFIG, read_summary
from mobilellm.run_settings import Config, flat_config, is_among, is_identity

# Settings that are paths, including those of the groups data and distillation.
PATHS = re.compile(
    r"init_from|extend_from|data\.(.*\.)?(train|validation|tokenizer|dataset_name)"
    r"|distillation\..*teacher|adapter\.initial"
)
# The last parts of those settings whose value can be a name: of a dataset on the hub, or `dense`.
MAYBE_NAMES = ("dataset_name", "teacher")
# Largest number of characters of a run's name before its hash.
LONGEST_NAME = 100
# The file from which a model's shape follows, if its latency is given.
PROFILE = "model.latency_profile"
PROBE = "learning_rate_probe"
RATE = "optimizer.learning_rate"
WIDENINGS = f"{PROBE}_widenings"
# Settings that did not exist when runs were named before, and their defaults, which are therefore
# no part of the identity.
LATER_DEFAULTS = {WIDENINGS: 4, "data.tokenizer_kind": "sentencepiece", "trainer.float8": False}
# Version of the hash in summary.json. Hashes without a version included the modules of classes.
IDENTITY_VERSION = 2
# Settings that summary.json contains too; comparing them first is faster than reading YAML.
QUICK_FACTS = ("seed", "sequence_length", "tokens_per_step")


def identity(config: Config) -> dict[str, object]:
    """The settings that can change the result, as dotted keys and values.

    Two configurations with the same identity train the same model. The settings `NOT_IDENTITY`,
    callbacks whose class sets `watches_only = True`, the settings of a disabled probe, settings
    that are null, and `LATER_DEFAULTS` are left out. Paths are relative to `output_dir`, so that
    their spelling does not matter and the whole folder can be moved. Numbers are normalised (1e4 is
    10000). A device profile counts by its
    content. Of `_target_` only the class name is used, so that a class can move to another module.

    Args:
        config: the resolved configuration.
    """
    base = str(config.get("output_dir") or "outputs")
    watching = _watching_callbacks(config)
    kept = {}
    for key, value in flat_config(config).items():
        if value is None or not is_identity(key) or is_among(key, watching):
            continue
        if key.startswith(f"{PROBE}_") and not config.get(PROBE):
            continue
        if key in LATER_DEFAULTS and value == LATER_DEFAULTS[key]:
            continue
        if key.endswith(TARGET):
            kept[key] = class_name(value)
        elif key == PROFILE:
            kept[key] = _profile_hash(value)
        else:
            kept[key] = _path(key, value, base) if PATHS.fullmatch(key) else _plain(value)
    if kept.get("trainer.strategy") == "ddp":
        kept["trainer.strategy"] = "auto"
    return kept


def config_hash(config: Config) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of the configuration's `identity`."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: Config, overrides: Sequence[str]) -> str:
    """The overrides in readable form and the hash, e.g. `num_blocks-8_seed-1-3fa2b1c0`.

    It contains no `=` and no `,`, because Hydra would require quotes for such a path
    (`init_from=…`).

    Args:
        config: the resolved configuration.
        overrides: the overrides that distinguish the run from others, as they were typed.
    """
    shown = [override for override in overrides if is_shown(override)]
    readable = _readable(shown)
    if len(readable) > LONGEST_NAME:
        # Most runs of a project use the same data, so that other overrides distinguish them.
        readable = _readable([o for o in shown if not re.match(r"data\b", override_key(o))])
    return f"{readable[:LONGEST_NAME].strip('_') or 'default'}-{config_hash(config)}"


def _readable(overrides: Sequence[str]) -> str:
    names = short_keys(map(override_key, overrides))
    parts = [f"{names[override_key(o)]}-{shown_value(override_value(o))}" for o in overrides]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "_".join(parts)).strip("_")


def find_run_folder(parent: Path, config: Config, overrides: Sequence[str] = ()) -> Path:
    """The folder of this configuration under `parent`: the existing one, or a new name.

    An existing folder is found by its hash, so that the order and the spelling of the overrides do
    not matter. A folder from an earlier version, whose hash included more settings, is found by
    the configuration that it contains.

    Raises:
        ValueError: the folder's run used another class of the same name.
    """
    wanted = config_hash(config)
    existing = sorted(parent.glob(f"*-{wanted}"))
    if existing:
        _check_same_classes(existing[0], config)
        return existing[0]
    older = (f for f in run_folders(parent) if _is_older(f, wanted, config, overrides))
    return next(older, parent / run_name(config, overrides))


def _check_same_classes(folder: Path, config: Config) -> None:
    """Check that no class of the folder's run is another class with the same name.

    A class that has moved is accepted: its old name cannot be imported any more, or refers to the
    same class.

    Raises:
        ValueError: a class name refers to two different classes.
    """
    then, now = flat_config(read_config(folder)), flat_config(config)
    for key in (key for key in now if key.endswith(TARGET) and key in then):
        if then[key] != now[key] and (old := _imported(then[key])) is not None:
            new = _imported(now[key])
            if new is not None and new is not old:
                raise ValueError(
                    f"{key}={now[key]} has the same class name as {then[key]}, with which "
                    f"{folder} was trained; rename one of the classes, or give another "
                    "experiment_name"
                )


def _imported(target: object) -> object:
    try:
        return get_object(str(target))
    except Exception:
        return None


def differences(
    folder: Path, config: Config, overrides: Sequence[str] = ()
) -> dict[str, tuple[object, object]]:
    """Settings in which the run in `folder` differs: the recorded value and the present one.

    A setting that is missing from the recorded configuration was introduced after the run; it is
    regarded as different only if it, or the group with it, is given now (`overrides`). The settings
    of a group that the run did not have, such as `compression`, are not missing.
    """
    recorded = read_config(folder)
    then, now = identity(recorded), identity(config)
    given = {override_key(override) for override in overrides}
    found = {
        key: (then.get(key), now.get(key))
        for key in {**then, **now}
        if then.get(key) != now.get(key)
        and (key in then or has_setting(recorded, key) or is_among(key, given))
    }
    if RATE in found and config.get(PROBE) and _is_probed(*found[RATE], config):
        del found[RATE]
    return found


def run_folders(parent: Path) -> Iterator[Path]:
    """Direct subfolders of `parent` in which a run has started, sorted by name."""
    yield from sorted(path.parent for path in parent.glob(f"*/{CONFIG}"))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration with which the run was started; empty if it cannot be read."""
    path = folder / CONFIG
    try:
        return _read_config(path, path.stat().st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=4096)
def _read_config(path: Path, _changed: int) -> dict[str, Any]:
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception:
        return {}
    return to_current_form(config) if isinstance(config, dict) else {}


def _is_older(folder: Path, wanted: str, config: Config, overrides: Sequence[str]) -> bool:
    """Whether the folder belongs to this run, with a name from an earlier version."""
    try:
        summary = read_summary(folder) or {}
    except ValueError:
        return False
    if summary.get("identity_version") == IDENTITY_VERSION:
        return summary.get("identity") == wanted
    if any(name in summary and summary[name] != config.get(name) for name in QUICK_FACTS):
        return False
    return not differences(folder, config, overrides)


def _is_probed(recorded: Any, configured: Any, config: Config) -> bool:
    """Whether the recorded learning rate is one that the probe can have chosen."""
    given = config.get(f"{PROBE}_factors") or ()
    factors = possible_factors(given, config.get(WIDENINGS) or 0)
    try:
        return any(math.isclose(recorded, configured * factor) for factor in factors)
    except TypeError:
        return False


def passive_callbacks(config: Config) -> list[str]:
    """Names of the callbacks that do not change the trained model.

    Their class sets `watches_only = True`, or `measures_only = True` if they add results to those
    of the run, so that they are part of its identity.
    """
    return _marked_callbacks(config, "watches_only", "measures_only")


def _watching_callbacks(config: Config) -> list[str]:
    """Keys `callbacks.<name>` of the callbacks that affect neither training nor results."""
    return [f"callbacks.{name}" for name in _marked_callbacks(config, "watches_only")]


def _marked_callbacks(config: Config, *attributes: str) -> list[str]:
    """Names of the callbacks whose class sets one of the attributes to True."""
    nodes = (config.get("callbacks") or {}).items()
    return [name for name, node in nodes if node and _is_marked(node, attributes)]


def _is_marked(node: Any, attributes: Sequence[str]) -> bool:
    """Whether the callback's class itself sets an attribute; subclasses do not inherit it."""
    try:
        own = vars(get_class(node["_target_"]))
    except Exception:
        # If the class cannot be imported, an error is raised later, when it is instantiated.
        return False
    return any(own.get(attribute) is True for attribute in attributes)


def _path(key: str, value: object, base: str) -> object:
    if isinstance(value, list):
        return [_path(key, item, base) for item in value]
    if not isinstance(value, str):
        return value
    full = user_path(value)
    if key.endswith(MAYBE_NAMES) and not os.path.exists(full):
        return value
    return os.path.relpath(os.path.realpath(full), os.path.realpath(user_path(base)))


def _profile_hash(value: object) -> object:
    """The hash of a device profile: another profile gives another shape, under any file name."""
    path = user_path(str(value))
    return read_profile(path).content_hash if path.is_file() else value


def _plain(value: object) -> object:
    """Plain data with normalised numbers: 1e4 becomes 10000."""
    if isinstance(value, Mapping):
        return {
            str(key): class_name(item) if key == TARGET else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
