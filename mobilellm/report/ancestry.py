"""The initial weights of a run: random, or from another model with its own training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.run_folder import CONFIG, MODEL, SUMMARY

if TYPE_CHECKING:
    from mobilellm.report.runs import Run

COMPRESSION = "compression.json"
"""Written by `mobilellm compress` beside the model; its `source` is the folder of the original."""
DEPTH = 20
"""Limit of ancestors to follow, in case the folders refer to each other in a circle."""


@dataclass(frozen=True)
class Start:
    """The initial weights of a run."""

    folder: str | None = None
    """The value of `init_from`; None: random initialisation."""
    origin: str | None = None
    """The first ancestor if its training is unknown; None: it was trained from scratch."""
    tokens: int = 0
    """Training tokens since the origin, without those of the run itself."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for summary.json."""
        return {"folder": self.folder, "origin": self.origin, "tokens": self.tokens}


def start_of(run: "Run") -> Start:
    """The initial weights as recorded in summary.json; for older runs, found from the folders."""
    known = run.fact("starts_from")
    if isinstance(known, Mapping):
        return Start(known.get("folder"), known.get("origin"), int(known.get("tokens") or 0))
    return start_from(run.config.get("init_from"))


def start_from(folder: str | None) -> Start:
    """The training history of the model in `folder`, which may be a run's; None: from scratch."""
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
    """The folder as an absolute path, without `model/`: one spelling per model."""
    path = Path(folder).absolute()
    return str(path.parent if path.name == MODEL else path)


def _parent(place: Path) -> tuple[str | None, int] | None:
    """(folder of the initial weights, tokens trained since); None if unknown."""
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
    """The contents of a JSON or YAML file; empty if it is missing or damaged."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, Mapping) else {}
