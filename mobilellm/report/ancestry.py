"""Where the weights of a run began: from scratch, or from another model and its training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.run_folder import CONFIG, MODEL, SUMMARY

if TYPE_CHECKING:
    from mobilellm.report.runs import Run

COMPRESSION = "compression.json"
"""What scripts/compress.py writes beside the model; `source` in it is the model's folder."""
DEPTH = 20
"""More ancestors than this are a circle."""


@dataclass(frozen=True)
class Start:
    """The weights that a run began with."""

    folder: str | None = None
    """What was given as `init_from`; None: drawn at random."""
    origin: str | None = None
    """The first ancestor, where nothing is known of its training; None: training from scratch."""
    tokens: int = 0
    """Training tokens from the origin on, without the run's own."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for summary.json."""
        return {"folder": self.folder, "origin": self.origin, "tokens": self.tokens}


def start_of(run: "Run") -> Start:
    """As summary.json has it; of older runs as the folders say now."""
    known = run.fact("starts_from")
    if isinstance(known, Mapping):
        return Start(known.get("folder"), known.get("origin"), int(known.get("tokens") or 0))
    return start_from(run.config.get("init_from"))


def start_from(folder: str | None) -> Start:
    """The training behind the model in `folder`; a run's own folder will do; None: from scratch."""
    if folder is None:
        return Start()
    place, tokens = Path(folder).absolute(), 0
    for _ in range(DEPTH):
        before = _parent(place)
        if before is None:
            return Start(_normal(folder), str(place.resolve()), tokens)
        parent, own = before
        tokens += own
        if parent is None:
            return Start(_normal(folder), None, tokens)
        place = Path(parent).absolute()
    return Start(_normal(folder), str(place.resolve()), tokens)


def _normal(folder: str) -> str:
    """One spelling of a model's folder."""
    path = Path(folder).absolute()
    return str(path.parent if path.name == MODEL else path)


def _parent(place: Path) -> tuple[str | None, int] | None:
    """(what the model was made from, tokens trained on since); None where nothing is known."""
    for folder in (place, place.parent) if place.name == MODEL else (place,):
        summary = _read(folder / SUMMARY)
        if isinstance(summary.get("tokens"), int | float):
            tokens = int(summary["tokens"])
            known = summary.get("starts_from")
            if isinstance(known, Mapping):
                return known.get("origin"), tokens + int(known.get("tokens") or 0)
            config = _read(folder / CONFIG)
            return (config.get("init_from"), tokens) if config else None
        source = _read(folder / COMPRESSION).get("source")
        if source:
            return str(source), 0
    return None


def _read(path: Path) -> Mapping[str, Any]:
    """A file of JSON or YAML; empty where it is missing or damaged."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, Mapping) else {}
