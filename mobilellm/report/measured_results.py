"""What the folder of a model says was measured about it, as sections of Markdown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm.evaluation.stored import read_evaluation
from mobilellm.report.ancestry import COMPRESSION
from mobilellm.run_folder import MODEL, read_summary
from mobilellm.units import bytes_text, plural

_TITLES = {
    "accuracy": "accuracy", "accuracy_norm": "per character", "exact_match": "exact match",
    "bits_per_byte": "bits per byte",
}  # fmt: skip


def measured_sections(folder: Path, model_hash: str) -> list[str]:
    """Sections on training, compression and evaluation, each with its command.

    Args:
        folder: of a model or a run.
        model_hash: evaluations of other weights are left out.

    Raises:
        ValueError: a file of the folder is damaged.
    """
    found = [_training(folder), _compression(folder), _evaluation(folder, model_hash)]
    return [section for section in found if section is not None]


def _places(folder: Path) -> list[Path]:
    """The folder, and that of its run."""
    return [folder, folder.parent] if folder.name == MODEL else [folder]


def _training(folder: Path) -> str | None:
    for place in _places(folder):
        summary = read_summary(place)
        if summary is not None and summary.get("status") == "finished":
            break
    else:
        return None
    rows = {
        "training tokens": _integer(summary.get("tokens")),
        "optimizer steps": _integer(summary.get("steps")),
        "sequence length": _integer(summary.get("sequence_length")),
        "data": (summary.get("data") or {}).get("name"),
        "validation loss": _number(summary.get("val_loss"), "nats per token"),
        "validation, bits per byte": _number(summary.get("val_bits_per_byte"), ""),
        "seed": summary.get("seed"),
    }
    return "\n\n".join(["### Training", _table(rows), _made_by(summary)])


def _compression(folder: Path) -> str | None:
    path = folder / COMPRESSION
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            f"| {one['model']} | {one['parameters']['stored']:,} | "
            f"{bytes_text(one['disk_bytes'])} | {one['loss']:.4f} |"
            for one in report["models"]
        ]
        text = (
            f"`{report['recipe']}`. Losses are in nats per token, on "
            f"{plural(report['validation_tokens'], 'token')} in windows of "
            f"{report['sequence_length']}."
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); compress the model again, or "
            "remove the file"
        ) from error
    head = ["| model | stored parameters | on disk | validation loss |", "|---|--:|--:|--:|"]
    return "\n\n".join(["### Compression", text, "\n".join([*head, *rows]), _made_by(report)])


def _evaluation(folder: Path, model_hash: str) -> str | None:
    for place in _places(folder):
        found = read_evaluation(place)
        if found is not None and found.get("model_hash") == model_hash:
            break
    else:
        return None
    parts = ["### Evaluation"]
    tasks = {**found["tasks"], **found.get("groups", {})}
    if tasks:
        titles = {k: t for k, t in _TITLES.items() if any(k in task for task in tasks.values())}
        rows = [
            f"| {name} | {task['documents']:,} | "
            + " | ".join(_measure(task, key) for key in titles) + " |"
            for name, task in tasks.items()
        ]  # fmt: skip
        head = f"| task | documents | {' | '.join(titles.values())} |"
        parts.append("\n".join([head, "|---|--:|" + "--:|" * len(titles), *rows]))
    if found["text"]:
        rows = [
            f"| {Path(name).name} | {text['tokens']:,} | {text['nats_per_token']:.4f} | "
            f"{text['bits_per_byte']:.4f} | {text['protocol']} |"
            for name, text in found["text"].items()
        ]
        head = "| text | tokens | nats per token | bits per byte | protocol |"
        parts.append("\n".join([head, "|---|--:|--:|--:|---|", *rows]))
    parts.append(f"Begin of texts: {found['protocol']}. {_made_by(found)}")
    return "\n\n".join(parts)


def _measure(task: Mapping[str, Any], key: str) -> str:
    """A measure with half of the width of its 95 % interval; accuracies in per cent."""
    if key not in task:
        return ""
    scale, digits = (1, 3) if key == "bits_per_byte" else (100, 1)
    text = f"{task[key] * scale:.{digits}f}"
    if f"{key}_interval" in task:
        low, high = task[f"{key}_interval"]
        text += f" ± {(high - low) / 2 * scale:.{digits}f}"
    return text


def _made_by(record: Mapping[str, Any]) -> str:
    """The command of a result, and where it ran, as far as they were recorded."""
    command = record.get("command")
    if command is None:
        return "The command was not recorded."
    versions, commit = record.get("versions") or {}, (record.get("git") or {}).get("commit")
    facts = [
        f"mobilellm {versions['mobilellm']}" if "mobilellm" in versions else None,
        f"commit {commit[:12]}" if commit else None,
        f"torch {versions['torch']}" if "torch" in versions else None,
        record.get("device"),
    ]
    known = ", ".join(fact for fact in facts if fact)
    return f"Made by `{command}`" + (f" ({known})." if known else ".")


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _integer(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _number(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.4f} {unit}".strip()
