"""Settings that a resumed run keeps from its recorded configuration."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilellm.checkpoint_files import last_checkpoint
from mobilellm.hydra_app.override_text import override_key
from mobilellm.pipeline.identity import identity, read_config
from mobilellm.run_folder import read_summary
from mobilellm.run_settings import Config, flat_config, is_identity

# Settings that determine the run folder, or that apply only to one start of the run.
OF_THIS_START = ("output_dir", "experiment_name", "resume")
# Settings whose default in conf/ is an interpolation of another setting.
TAKEN_FROM = {"data.prepared_dir": "prepared_dir"}
MISSING = object()


def with_recorded(
    config: dict[str, Any], folder: Path, overrides: Sequence[str] | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration for resuming the unfinished run in `folder`, and lines for the log.

    Settings that cannot change the result (micro-batch, compile, paths, …) keep their recorded
    values unless they are given now. For example, a run that ran out of memory can be resumed with
    a smaller `micro_batch_size=…`.

    Args:
        config: the resolved configuration as composed now, with the same identity.
        folder: the folder of the run.
        overrides: the overrides of the command line; None if there is no command line, in which
            case every setting of `config` counts as given.

    Returns:
        A new configuration, and one line for each setting that differs.
    """
    if last_checkpoint(folder) is None or not (recorded := read_config(folder)):
        return config, ()
    before: set[str] = set(_summary(folder).get("overrides") or ())
    free_callbacks = _callbacks_outside_identity(recorded, config)
    result, lines = config, []
    for key, then, now in differing("", recorded, config):
        is_free = not is_identity(key) or any(f"{key}.".startswith(f"{w}.") for w in free_callbacks)
        if not is_free or key.startswith(OF_THIS_START) or then is MISSING:
            continue
        if overrides is None or any(gives(key, override, before) for override in overrides):
            lines.append(f"continues with {key}={_text(now)} (before: {_text(then)})")
        else:
            result = replaced(result, key.split("."), then)
            lines.append(f"keeps {key}={_text(then)}, with which it was started")
    return result, tuple(lines)


def _summary(folder: Path) -> Mapping[str, Any]:
    try:
        return read_summary(folder) or {}
    except ValueError:
        return {}


def _callbacks_outside_identity(recorded: Config, config: Config) -> list[str]:
    """Keys `callbacks.<name>` of the callbacks that are not part of either identity."""
    kept = {*identity(recorded), *identity(config)}
    names = {**(recorded.get("callbacks") or {}), **(config.get("callbacks") or {})}
    found = [f"callbacks.{name}" for name in names]
    return [name for name in found if not any(key.startswith(f"{name}.") for key in kept)]


def differing(path: str, then: object, now: object) -> Iterator[tuple[str, object, object]]:
    """Dotted key and both values of each setting that differs.

    A group that is empty on one side is yielded as a whole.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping) and then and now:
        for name in {**then, **now}:
            key = f"{path}.{name}" if path else str(name)
            yield from differing(key, then.get(name, MISSING), now.get(name, MISSING))
    elif then != now:
        yield path, then, now


def gives(key: str, override: str, before: set[str]) -> bool:
    """Whether an override changes this setting, by its key or by the choice of its group.

    A choice that was already made when the run started, such as `trainer=gpu`, does not count.
    """
    given = override_key(override)
    if given in (key, TAKEN_FROM.get(key)) or given.startswith(f"{key}."):
        return True
    return key.startswith(f"{given}.") and override not in before


def replaced(config: dict[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    """A copy of the configuration with `value` at `path`."""
    name, *rest = path
    if not rest:
        return config | {name: value}
    inner = config.get(name)
    return config | {name: replaced(inner if isinstance(inner, dict) else {}, rest, value)}


def _text(value: object) -> str:
    if value is MISSING:
        return "(none)"
    if isinstance(value, Mapping):
        return "{" + ", ".join(flat_config(value)) + "}" if value else "none"
    return "null" if value is None else str(value)
