"""The comparison as data: a row a run for spreadsheets, and everything as JSON."""

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mobilellm.report.compressed import COMPRESSED, CompressedModel
from mobilellm.report.learning_rates import rates_tried
from mobilellm.report.runs import Run
from mobilellm.report.shapes import Shape
from mobilellm.report.statistics import Interval, Pair
from mobilellm.strict_json import to_json

if TYPE_CHECKING:
    from mobilellm.report.comparison import Comparison

FORMAT = 1
"""Version of comparison.json."""

FACTS = (
    "experiment", "run", "learning_rate", "max_tokens", "unigram_loss", "bigram_loss",
    "kv_cache_bytes_per_token", "decode_bytes_per_token", "wall_seconds", "tokens_per_second",
    "peak_memory_bytes", "model_flops_utilization", "precision", "device",
    "threads", "git.commit", "git.dirty", "versions.torch", "hashes.data", "hashes.tokenizer",
    "hashes.train", "hashes.validation", "started_at", "finished_at", "command",
)  # fmt: skip
"""Entries of summary.json that go out as they are."""


def csv_text(comparison: "Comparison") -> str:
    """One row a run, those left out at the end with their status and reason."""
    rows: list[dict[str, Any]] = [
        _run_record(shape, run) for shape in comparison.shapes for run in shape.runs
    ]
    rows += [_compressed_record(row) for row in comparison.compressed if row.kind == COMPRESSED]
    columns = list(dict.fromkeys([*(name for row in rows for name in row), "reason"]))
    rows += [
        {"folder": str(run.folder), "status": run.status, "reason": run.reason}
        for run in comparison.left_out
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_text(comparison: "Comparison") -> str:
    """Everything: findings, cautions, shapes, pairs and runs."""
    record = {
        "format": FORMAT,
        "title": comparison.title,
        "sources": [str(path) for path in comparison.sources],
        "verdict": comparison.verdict,
        "findings": list(comparison.findings),
        "metric": comparison.metric,
        "cautions": [asdict(caution) for caution in comparison.cautions],
        "shapes": [_shape_record(shape) for shape in comparison.shapes],
        "pairs": [_pair_record(comparison, pair) for pair in comparison.pairs],
        "runs": [_run_record(shape, run) for shape in comparison.shapes for run in shape.runs],
        "reference": comparison.reference,
        "compressed": [asdict(row) | {"folder": str(row.folder)} for row in comparison.compressed],
        "left_out": [
            {"folder": str(run.folder), "status": run.status, "reason": run.reason}
            for run in comparison.left_out
        ],
        "num_probes": comparison.num_probes,
    }
    return to_json(record, ensure_ascii=False) + "\n"


def _run_record(shape: Shape, run: Run) -> dict[str, Any]:
    model = run.model
    return {
        "shape": shape.label,
        "folder": str(run.folder),
        "status": "finished",
        "seed": run.seed,
        "num_blocks": model.num_blocks,
        "block_repeats": model.block_repeats,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        **{f"{name}_parameters": value for name, value in run.parameters.items()},
        **{f"{name}_flops_per_token": value for name, value in run.flops_per_token.items()},
        "tokens": run.tokens,
        "steps": run.steps,
        "sequence_length": run.sequence_length,
        "tokens_per_step": run.tokens_per_step,
        "val_loss": run.val_loss,
        "val_bits_per_byte": run.val_bits_per_byte,
        "optimizer": run.optimizer,
        **{path: run.fact(path) for path in FACTS},
    }


def _compressed_record(row: CompressedModel) -> dict[str, Any]:
    return {
        "shape": row.label,
        "folder": str(row.folder),
        "status": row.kind,
        "val_loss": row.loss,
        "dense_loss": row.dense_loss,
        "bytes_on_disk": row.bytes_on_disk,
        "ratio": row.ratio,
        "prefill_ms": row.prefill_ms,
        "decode_ms_per_token": row.decode_ms_per_token,
    }


def _shape_record(shape: Shape) -> dict[str, Any]:
    return {
        "label": shape.label,
        "model": shape.model.to_dict(),
        "num_layers": shape.model.num_layers,
        "parameters": dict(shape.first.parameters),
        "flops_per_token": dict(shape.first.flops_per_token),
        "seeds": list(shape.seeds),
        "val_loss": _interval_record(shape.interval("val_loss")),
        "val_bits_per_byte": _interval_record(shape.interval("val_bits_per_byte")),
        "learning_rate": shape.first.number("learning_rate"),
        "learning_rates_tried": [
            {"learning_rate": rate, "val_loss": loss}
            for rate, loss in rates_tried(shape.first).items()
        ],
        "median_tokens_per_second": shape.median("tokens_per_second"),
        "median_peak_memory_bytes": shape.median("peak_memory_bytes"),
        "median_wall_seconds": shape.median("wall_seconds"),
    }


def _pair_record(comparison: "Comparison", pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "verdict": pair.verdict,
        "reason": pair.reason or None,
        "seeds": list(pair.seeds),
        "p_value": pair.p_value,
        "adjusted_p_value": pair.adjusted_p_value,
        "difference_nats_per_token": None
        if comparison.metric == "val_bits_per_byte"
        else _interval_record(comparison.difference(pair, "val_loss")),
        "difference_bits_per_byte": _interval_record(
            comparison.difference(pair, "val_bits_per_byte")
        ),
    }


def _interval_record(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)
