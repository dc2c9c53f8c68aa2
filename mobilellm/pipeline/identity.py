"""Which run a configuration stands for: the hash of what may change the result, and its folder.

A run's name is made from its configuration alone, never from the time, so that a job that is
started again finds its own folder.
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

from mobilellm.hydra_app.override_text import (
    is_shown,
    override_key,
    override_value,
    short_keys,
    shown_value,
)
from mobilellm.paths import user_path
from mobilellm.recorded_config import TARGET, class_name, in_todays_form
from mobilellm.run_folder import CONFIG, read_summary
from mobilellm.run_settings import flat_config, is_identity

# Settings that name files, below the groups of data and of distillation.
PATHS = re.compile(
    r"init_from|extend_from|data\.(.*\.)?(train|validation|tokenizer|dataset_name)"
    r"|distillation\..*teacher"
)
# Of these the values may be names instead: of a dataset on the hub, or `dense`.
MAYBE_NAMES = ("dataset_name", "teacher")
# Most characters of a run's name before its hash.
LONGEST_NAME = 100
PROBE = "learning_rate_probe"
RATE = "optimizer.learning_rate"
# Of the hash in summary.json; without a version, it was made of the modules of classes too.
IDENTITY_VERSION = 2
# Facts of summary.json that a run of this configuration would have: cheaper to read than YAML.
QUICK_FACTS = ("seed", "sequence_length", "tokens_per_step")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What may change the result: dotted keys and values, equal where what is trained is equal.

    Left out are `NOT_IDENTITY`, callbacks whose class says `watches_only = True`, the settings of
    a probe that is off, and null, which is the same as not being there. Paths are relative to
    `output_dir`, so that they may be given in any way and the whole may be moved; 1e4 is 10000. Of
    `_target_` the class name counts, not the module: a class may move to another file.

    Args:
        config: the resolved configuration.
    """
    base = str(config.get("output_dir") or "outputs")
    watching = _watching_callbacks(config)
    kept = {}
    for key, value in flat_config(config).items():
        is_watched = any(key == name or key.startswith(f"{name}.") for name in watching)
        if value is None or not is_identity(key) or is_watched:
            continue
        if key.startswith(f"{PROBE}_") and not config.get(PROBE):
            continue
        if key.endswith(TARGET):
            kept[key] = class_name(value)
        else:
            kept[key] = _path(key, value, base) if PATHS.fullmatch(key) else _plain(value)
    if kept.get("trainer.strategy") == "ddp":
        kept["trainer.strategy"] = "auto"
    return kept


def config_hash(config: Mapping[str, Any]) -> str:
    """8 hex digits of the configuration's `identity`."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Readable overrides and the configuration's hash, e.g. `num_blocks-8_seed-1-3fa2b1c0`.

    There is no `=` and no `,` in it: Hydra would want such a path in quotes (`init_from=…`).

    Args:
        config: the resolved configuration.
        overrides: those that tell the run from others, as they were typed.
    """
    shown = [override for override in overrides if is_shown(override)]
    readable = _readable(shown)
    if len(readable) > LONGEST_NAME:
        # A project's runs mostly share their data: what is typed after it tells them apart.
        readable = _readable([o for o in shown if not re.match(r"data\b", override_key(o))])
    return f"{readable[:LONGEST_NAME].strip('_') or 'default'}-{config_hash(config)}"


def _readable(overrides: Sequence[str]) -> str:
    names = short_keys(map(override_key, overrides))
    parts = [f"{names[override_key(o)]}-{shown_value(override_value(o))}" for o in overrides]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "_".join(parts)).strip("_")


def find_run_folder(parent: Path, config: Mapping[str, Any], overrides: Sequence[str] = ()) -> Path:
    """The folder of this configuration under `parent`: the one that exists, else its new name.

    The hash decides, so that neither the order of the overrides nor the way they were typed
    matters. Folders of earlier versions, whose hash was made of more settings, are found by the
    configuration in them.

    Raises:
        ValueError: the folder's run used another class of the same name.
    """
    wanted = config_hash(config)
    existing = sorted(parent.glob(f"*-{wanted}"))
    if existing:
        _refuse_namesakes(existing[0], config)
        return existing[0]
    older = (f for f in run_folders(parent) if _is_older(f, wanted, config, overrides))
    return next(older, parent / run_name(config, overrides))


def _refuse_namesakes(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that differs from the folder's run in the module of a class alone.

    A class that has moved is the same one: its old name cannot be imported any more, or leads to
    the same class.
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


def _imported(target: Any) -> Any:
    from hydra.utils import get_object

    try:
        return get_object(str(target))
    except Exception:
        return None


def differences(
    folder: Path, config: Mapping[str, Any], overrides: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Settings in which the run in `folder` is another one: its value and the present one.

    A setting that the recorded configuration does not have is younger than the run; it differs
    only where it was given (`overrides`).
    """
    recorded = read_config(folder)
    then, now = identity(recorded), identity(config)
    known, given = flat_config(recorded).keys(), {override_key(override) for override in overrides}
    found = {
        key: (then.get(key), now.get(key))
        for key in {**then, **now}
        if then.get(key) != now.get(key)
        and (key in then or key in known or key in given or not recorded)
    }
    if RATE in found and config.get(PROBE) and _is_probed(*found[RATE], config):
        del found[RATE]
    return found


def run_folders(parent: Path) -> Iterator[Path]:
    """Folders of runs that have begun, right below `parent`, by name."""
    yield from sorted(path.parent for path in parent.glob(f"*/{CONFIG}"))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that the run was begun with; empty where it cannot be read."""
    path = folder / CONFIG
    try:
        return _read_config(path, path.stat().st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=4096)
def _read_config(path: Path, _changed: int) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception:
        return {}
    return in_todays_form(config) if isinstance(config, dict) else {}


def _is_older(
    folder: Path, wanted: str, config: Mapping[str, Any], overrides: Sequence[str]
) -> bool:
    """Whether it is this run's, under a name of an earlier version."""
    try:
        summary = read_summary(folder) or {}
    except ValueError:
        return False
    if summary.get("identity_version") == IDENTITY_VERSION:
        return summary.get("identity") == wanted
    if any(name in summary and summary[name] != config.get(name) for name in QUICK_FACTS):
        return False
    return not differences(folder, config, overrides)


def _is_probed(recorded: Any, configured: Any, config: Mapping[str, Any]) -> bool:
    """Whether the recorded learning rate is what a probe may have chosen."""
    factors = config.get(f"{PROBE}_factors") or ()
    try:
        return any(math.isclose(recorded, configured * factor) for factor in factors)
    except TypeError:
        return False


def _watching_callbacks(config: Mapping[str, Any]) -> list[str]:
    """`callbacks.<name>` of those that change nothing in what is learnt."""
    nodes = (config.get("callbacks") or {}).items()
    return [f"callbacks.{name}" for name, node in nodes if node and _watches_only(node)]


def _watches_only(node: Any) -> bool:
    """What the callback's own class says; a class derived from it has to say so again."""
    from hydra.utils import get_class

    try:
        return vars(get_class(node["_target_"])).get("watches_only") is True
    except Exception:
        # What cannot be built is refused later, with its own message.
        return False


def _path(key: str, value: Any, base: str) -> Any:
    if isinstance(value, list):
        return [_path(key, item, base) for item in value]
    if not isinstance(value, str):
        return value
    full = user_path(value)
    if key.endswith(MAYBE_NAMES) and not os.path.exists(full):
        return value
    return os.path.relpath(os.path.realpath(full), os.path.realpath(user_path(base)))


def _plain(value: Any) -> Any:
    """Numbers of one value alike, whether they were written 10000 or 1e4."""
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
