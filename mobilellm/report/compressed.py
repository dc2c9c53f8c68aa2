"""Compressed models that `mobilellm compress` wrote: their size, speed and loss."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilellm.command_names import command_for
from mobilellm.models.saved_config import CONFIG_FILE, read_config
from mobilellm.models.shape_name import shape_name
from mobilellm.report.ancestry import COMPRESSION, start_of
from mobilellm.report.caution import Caution, shorten_list
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.run_settings import compression_node, recipe_text
from mobilellm.report.runs import LeftOut, number_or_none
from mobilellm.run_folder import MODEL, folders_with

DENSE, GIVEN, COMPRESSED, RECOVERED = "dense", "given", "compressed", "recovered"


@dataclass(frozen=True, kw_only=True)
class CompressedModel:
    """One row of the leaderboard of compressed models; unknown values are None."""

    label: str
    folder: Path
    kind: str
    """`dense` or `given` (the model before compression, which was dense or compressed already),
    `compressed` (without training after compression) or `recovered` (with training after it)."""
    loss: float
    """Nats per token."""
    dense_loss: float | None
    """Loss of the model before compression, on the same text."""
    bytes_on_disk: float | None
    ratio: float | None
    """Unmasked parameters, relative to those of the dense model."""
    prefill_ms: float | None
    decode_ms_per_token: float | None
    peak_memory_bytes: float | None
    text: tuple[Any, ...]
    """Identifies the text of the loss: only rows with equal values are comparable."""

    @property
    def is_before(self) -> bool:
        """Whether this is the model before compression."""
        return self.kind in (DENSE, GIVEN)


def read_compressed(
    folders: Sequence[Path],
) -> tuple[tuple[CompressedModel, ...], tuple[LeftOut, ...]]:
    """Read every compressed model at or below the given folders, and the model it was made from.

    Returns:
        The models, and the folders that could not be read.
    """
    found: list[CompressedModel] = []
    broken: list[LeftOut] = []
    for folder in _folders(folders):
        try:
            found += _rows(folder)
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            text = (
                f"{error} is missing in {COMPRESSION}"
                if isinstance(error, KeyError)
                else str(error)
            )
            broken.append(LeftOut(folder, "unreadable", text))
    return tuple(found), tuple(broken)


def rank_models(
    rows: Sequence[CompressedModel], groups: Sequence[RunGroup]
) -> tuple[CompressedModel, ...]:
    """Make the leaderboard: sorted by validation text and then by loss, with unique labels.

    Args:
        rows: from `read_compressed`.
        groups: configurations; those whose runs compressed the model are added as rows.
    """
    every = [*rows, *(row for group in groups for row in _recovered(group))]
    every = list({_model_key(row): row for row in reversed(every)}.values())[::-1]
    texts = list(dict.fromkeys(row.text for row in every))
    labels = [(row.kind, row.label) for row in every]
    named = [
        replace(row, label=f"{row.label} ({row.folder.name})")
        if labels.count((row.kind, row.label)) > 1 and row.kind == COMPRESSED
        else row
        for row in every
    ]
    return tuple(sorted(named, key=lambda row: (texts.index(row.text), row.loss)))


def _model_key(row: CompressedModel) -> tuple[Any, ...]:
    """A key that is equal for rows of the same model."""
    place = round(row.loss, 4) if row.is_before else row.folder
    return row.kind, row.label, row.text, place


def compressed_cautions(rows: Sequence[CompressedModel]) -> tuple[Caution, ...]:
    """Return cautions about different validation texts and about missing seeds."""
    found = []
    texts = {row.text: row.label for row in reversed(rows)}
    if len(texts) > 1:
        text = (
            f"the losses of the compressed models were measured on {len(texts)} different texts or "
            f"window lengths (the first model of each: {shorten_list(list(texts.values()))}); only "
            "losses on the same text and window length are comparable"
        )
        found.append(Caution("compressed models", True, text))
    if any(row.kind == COMPRESSED for row in rows):
        text = (
            "each compressed model was measured only once, so there is no verdict; to get one, "
            f"train the models with several seeds ({command_for('train')} init_from=…)"
        )
        found.append(Caution("compressed models", False, text))
    return tuple(found)


def _folders(paths: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        root = path if path.is_dir() else path.parent
        for folder in folders_with(COMPRESSION, below=root):
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def _rows(folder: Path) -> Iterator[CompressedModel]:
    """The dense and the compressed model of one compression.json."""
    report = json.loads((folder / COMPRESSION).read_text(encoding="utf-8"))
    by_name = {row["model"]: row for row in report["models"]}
    after = by_name[COMPRESSED]
    before = next((row for name, row in by_name.items() if name != COMPRESSED), None)
    if before is None:
        raise ValueError(
            f"{COMPRESSION} does not contain the model before compression; compress it again"
        )
    config = read_config(folder) if (folder / CONFIG_FILE).is_file() else None
    size = shape_name(config) if config else folder.name
    known = (report.get("hashes") or {}).get("validation")
    text = (
        (known, report.get("sequence_length"), report.get("validation_tokens"))
        if known
        else (round(before["loss"], 6), before["parameters"]["stored"])
    )
    source = Path(report["source"]) if report.get("source") else None
    name = str(before["model"])
    place = source if source is not None else folder
    kind = DENSE if name == DENSE else GIVEN
    yield _row(name, place, kind, before, before, text, disk_bytes(source))
    label = f"{size} {recipe_text(parse_recipe(report['recipe']))}"
    yield _row(label, folder, COMPRESSED, after, before, text, disk_bytes(folder))


def _row(
    label: str, folder: Path, kind: str, row: Mapping[str, Any], dense: Mapping[str, Any],
    text: tuple[Any, ...], size: float | None,
) -> CompressedModel:  # fmt: skip
    loss = float(row["loss"])
    if not math.isfinite(loss):
        raise ValueError(f"loss={loss} of the {row['model']} model is not finite")
    kept = row["parameters"].get("nonzero") or row["parameters"]["stored"]
    return CompressedModel(
        label=label,
        folder=folder,
        kind=kind,
        loss=loss,
        dense_loss=float(dense["loss"]),
        bytes_on_disk=number_or_none(row.get("disk_bytes")) or size,
        ratio=kept / dense["parameters"]["stored"],
        prefill_ms=number_or_none(row.get("prefill_ms")),
        decode_ms_per_token=number_or_none(row.get("decode_ms_per_token")),
        peak_memory_bytes=number_or_none(row.get("peak_memory_bytes")),
        text=text,
    )


def _recovered(group: RunGroup) -> Iterator[CompressedModel]:
    """The dense and the recovered model of runs with compression; no rows for other runs."""
    run, interval = group.first, group.interval("val_loss")
    if compression_node(run.config) is None or interval is None:
        return
    stages = run.fact("compression.stages") or [{}]
    latency = {row.get("model"): row for row in run.fact("compression.latency") or ()}
    dense_loss = number_or_none(stages[0].get("loss_before"))
    stored = stages[0].get("parameters_before")
    limit = run.config.get("validation_tokens")
    windows = None if limit is None else int(limit // run.sequence_length) * run.sequence_length
    text = (run.fact("hashes.validation"), run.sequence_length, windows)
    kept = {"nonzero": run.number("parameters.nonzero"), "stored": run.parameters["stored"]}
    dense = {"model": DENSE, "loss": dense_loss, "parameters": {"stored": stored}}
    after = {"model": COMPRESSED, "loss": interval.mean, "parameters": kept}
    if dense_loss is None or not stored:
        return
    dense |= latency.get(DENSE, {})
    start = start_of(run).folder
    place = Path(start) if start else run.folder
    size = disk_bytes(Path(start)) if start else None
    yield _row(DENSE, place, DENSE, dense, dense, text, size)
    after |= latency.get(COMPRESSED, {})
    yield _row(group.label, run.folder, RECOVERED, after, dense, text, disk_bytes(run.folder))


def disk_bytes(folder: Path | None) -> float | None:
    """Return the size of the weight files in a model's or a run's folder; None without files."""
    for place in () if folder is None else (folder, folder / MODEL):
        sizes = [file.stat().st_size for file in place.glob("*.safetensors")]
        if sizes:
            return float(sum(sizes))
    return None


def parse_recipe(text: str) -> dict[str, Any]:
    """Parse the settings of a recipe from its text, `Pruning(method='wanda', sparsity=0.5)`."""
    kind = text.partition("(")[0]
    values = {
        name: _value(value)
        for name, value in re.findall(r"(\w+)=('[^']*'|[-\w.+:]+)", text)
        if _value(value) is not None
    }
    recipe: dict[str, Any] = {"_target_": f".{kind}", **values, "budget": values}
    parts = re.search(r"\bparts=(None|\(\)|\[\]|.*?\bright=(?:None|.))", text)
    if parts:
        is_low_rank = parts[1] in ("()", "[]") or parts[1].endswith("right=None")
        recipe["parts"] = None if parts[1] == "None" else ([] if is_low_rank else [{"right": []}])
    return recipe


def _value(text: str) -> Any:
    text = text.strip("'")
    if text == "None":
        return None
    try:
        return float(text)
    except ValueError:
        return text
