"""Where the initial weights of a run come from, and how many tokens they were trained on."""

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
MAX_ANCESTORS = 20
"""The most ancestors to follow, in case folders refer to each other in a circle."""


@dataclass(frozen=True)
class Start:
    """The initial weights of a run."""

    folder: str | None = None
    """The value of `init_from`; None: random initialisation."""
    origin: str | None = None
    """The earliest known ancestor, if its own training is unknown; None: all training is known."""
    tokens: int = 0
    """Training tokens of all ancestors since the origin, without those of the run itself."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for summary.json."""
        return {"folder": self.folder, "origin": self.origin, "tokens": self.tokens}


def start_of(run: "Run") -> Start:
    """Return the initial weights of a run.

    They are recorded in summary.json; for runs of versions that did not record them, the folders of
    the ancestors are read.
    """
    known = run.fact("starts_from")
    if isinstance(known, Mapping):
        return Start(known.get("folder"), known.get("origin"), int(known.get("tokens") or 0))
    return start_from(run.config.get("init_from"))


def start_from(folder: str | None) -> Start:
    """Find the training history of a model from the folders of its ancestors.

    Args:
        folder: of the model, or of the run that trained it; None: random initialisation.
    """
    if folder is None:
        return Start()
    place, tokens = Path(folder).absolute(), 0
    for _ in range(MAX_ANCESTORS):
        before = _parent(place)
        if before is None:
            return Start(_normalised(folder), str(place.resolve()), tokens)
        parent, own = before
        tokens += own
        if parent is None:
            return Start(_normalised(folder), None, tokens)
        place = Path(parent).absolute()
    return Start(_normalised(folder), str(place.resolve()), tokens)


def _normalised(folder: str) -> str:
    """The absolute path without a final `model/`, so that each model has one spelling."""
    path = Path(folder).absolute()
    return str(path.parent if path.name == MODEL else path)


def _parent(place: Path) -> tuple[str | None, int] | None:
    """Folder of the initial weights, and tokens trained since then; None if they are unknown."""
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
