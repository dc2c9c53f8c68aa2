"""The analysis as CSV with one row per run, and as JSON with all results."""

import csv
import io
from dataclasses import asdict
from typing import Any

from mobilellm.report.analysis import Analysis
from mobilellm.report.budgets import HeldEqual
from mobilellm.report.compressed import COMPRESSED, CompressedModel
from mobilellm.report.equal_latency import EqualLatency
from mobilellm.report.evaluated_runs import evaluated_record
from mobilellm.report.ladder_records import ladder_record
from mobilellm.report.learning_rates import rates_tried
from mobilellm.report.power import PowerEstimate
from mobilellm.report.rate_curves import RateCurve
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.runs import Run
from mobilellm.report.statistics import POWER, Interval, Pair
from mobilellm.strict_json import to_json

FORMAT = 1
"""Version of the format of comparison.json."""

FACTS = (
    "experiment", "run", "learning_rate", "max_tokens", "unigram_loss", "bigram_loss",
    "kv_cache_bytes_per_token", "decode_bytes_per_token", "wall_seconds", "tokens_per_second",
    "peak_memory_bytes", "model_flops_utilization", "precision", "device",
    "threads", "git.commit", "git.dirty", "versions.torch", "hashes.data", "hashes.tokenizer",
    "hashes.train", "hashes.validation", "started_at", "finished_at", "command",
)  # fmt: skip
"""Entries of summary.json that are copied unchanged."""


def run_records(analysis: Analysis) -> list[dict[str, Any]]:
    """Return one record per run, and per model that was compressed without training after it."""
    rows = _all_runs(analysis)
    return rows + [_compressed_record(row) for row in analysis.compressed if row.kind == COMPRESSED]


def csv_text(analysis: Analysis) -> str:
    """Return the CSV: one row per run, then the runs left out with their status and the reason."""
    rows = run_records(analysis)
    columns = list(dict.fromkeys([*(name for row in rows for name in row), "reason"]))
    rows += [
        {"folder": str(run.folder), "status": run.status, "reason": run.reason}
        for run in analysis.left_out
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_text(analysis: Analysis) -> str:
    """Return the JSON: findings, cautions, configurations (`shapes`), pairs and runs."""
    record = {
        "format": FORMAT,
        "title": analysis.title,
        "sources": [str(path) for path in analysis.sources],
        "verdict": analysis.verdict,
        "findings": list(analysis.findings),
        "metric": analysis.metric,
        "cautions": [
            {"kind": caution.kind, "is_grave": caution.is_serious, "message": caution.message}
            for caution in analysis.cautions
        ],
        "shapes": [_group_record(group) for group in analysis.groups],
        "pairs": [_pair_record(analysis, pair) for pair in analysis.pairs],
        "runs": _all_runs(analysis),
        "learning_rates": [_rate_record(curve) for curve in analysis.rate_curves],
        "evaluated": evaluated_record(analysis.groups),
        **ladder_record(analysis.ladder),
        "decisions": None if analysis.decisions is None else asdict(analysis.decisions),
        "reference": analysis.reference,
        "margin": analysis.margin,
        "max_seeds": analysis.max_seeds,
        "noise": [_power_record(each) for each in analysis.power],
        "compressed": [asdict(row) | {"folder": str(row.folder)} for row in analysis.compressed],
        "held_equal": [_held_record(each) for each in analysis.held_equal],
        "latency": _latency_record(analysis),
        "equal_latency": _equal_latency_record(analysis.equal_latency),
        "left_out": [
            {"folder": str(run.folder), "status": run.status, "reason": run.reason}
            for run in analysis.left_out
        ],
        "num_probes": analysis.num_probes,
    }
    return to_json(record, ensure_ascii=False) + "\n"


def _all_runs(analysis: Analysis) -> list[dict[str, Any]]:
    """One record per run; those of a ladder's shorter budgets come last."""
    shorter = () if analysis.ladder is None else analysis.ladder.shorter
    return [_run_record(group, run) for group in (*analysis.groups, *shorter) for run in group.runs]


def _run_record(group: RunGroup, run: Run) -> dict[str, Any]:
    model = run.model
    return {
        "shape": group.label,
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
        "measured_decode_ms_per_token": group.latency_ms,
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


def _group_record(group: RunGroup) -> dict[str, Any]:
    return {
        "label": group.label,
        "model": group.model.to_dict(),
        "num_layers": group.model.num_layers,
        "parameters": dict(group.first.parameters),
        "flops_per_token": dict(group.first.flops_per_token),
        "seeds": list(group.seeds),
        "val_loss": _interval_record(group.interval("val_loss")),
        "val_bits_per_byte": _interval_record(group.interval("val_bits_per_byte")),
        "decode_ms_per_token": group.latency_ms,
        "learning_rate": group.first.number("learning_rate"),
        "learning_rates_tried": [
            {"learning_rate": rate, "val_loss": loss}
            for rate, loss in rates_tried(group.first).items()
        ],
        "chosen_by_rule": group.first.fact("chosen_by_rule") or {},
        "median_tokens_per_second": group.median("tokens_per_second"),
        "median_peak_memory_bytes": group.median("peak_memory_bytes"),
        "median_wall_seconds": group.median("wall_seconds"),
    }


def _pair_record(analysis: Analysis, pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "verdict": pair.verdict,
        "reason": pair.reason or None,
        "seeds": list(pair.seeds),
        "p_value": pair.p_value,
        "adjusted_p_value": pair.adjusted_p_value,
        "difference_nats_per_token": None
        if analysis.metric == "val_bits_per_byte"
        else _interval_record(analysis.difference(pair, "val_loss")),
        "difference_bits_per_byte": _interval_record(
            analysis.difference(pair, "val_bits_per_byte")
        ),
    }


def _held_record(found: HeldEqual) -> dict[str, Any]:
    quantities = [
        {
            "quantity": budget.name,
            "smallest": budget.smallest,
            "largest": budget.largest,
            "spread": budget.spread,
            "is_equal": budget.is_matched,
        }
        for budget in found.budgets
    ]
    return {"shapes": list(found.labels), "quantities": quantities}


def _latency_record(analysis: Analysis) -> dict[str, Any]:
    conditions = analysis.latencies.conditions
    return {
        "conditions": None if conditions is None else asdict(conditions),
        "processor_share": None if conditions is None else analysis.latencies.processor_share,
        "not_measured": analysis.latencies.reason or None,
    }


def _equal_latency_record(found: EqualLatency) -> dict[str, Any]:
    return {
        "pairs": [
            {
                "first": each.pair.first,
                "second": each.pair.second,
                "difference": _interval_record(each.pair.difference),
                "time_ratio": asdict(each.ratio),
                "verdict": each.verdict,
            }
            for each in found.pairs
        ],
        "levels": [
            {
                "ms_per_token": level.ms,
                "losses": {name: asdict(loss) for name, loss in level.losses.items()},
                "pairs": [
                    {
                        "first": pair.first,
                        "second": pair.second,
                        "verdict": pair.verdict,
                        "difference": _interval_record(pair.difference),
                    }
                    for pair in level.pairs
                ],
            }
            for level in found.levels
        ],
    }


def pair_records(analysis: Analysis) -> list[dict[str, Any]]:
    """Return one record per pair: difference, ends of its interval, p-values and verdict."""
    rows = []
    for pair in analysis.pairs:
        difference = pair.difference
        half = None if difference is None else difference.half_width
        rows.append(
            {
                "first": pair.first,
                "second": pair.second,
                "verdict": pair.verdict,
                "difference": None if difference is None else difference.mean,
                "low": None if difference is None or half is None else difference.mean - half,
                "high": None if difference is None or half is None else difference.mean + half,
                "p_value": pair.p_value,
                "adjusted_p_value": pair.adjusted_p_value,
                "common_seeds": len(pair.seeds),
                "reason": pair.reason or None,
            }
        )
    return rows


def pairs_csv_text(analysis: Analysis) -> str:
    """Return one row per pair as CSV."""
    buffer = io.StringIO()
    rows = pair_records(analysis)
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _power_record(power: PowerEstimate) -> dict[str, Any]:
    noise = power.noise
    return {
        "labels": list(noise.labels),
        "standard_deviation": noise.standard_deviation,
        "degrees_of_freedom": noise.degrees,
        "seeds": noise.num_seeds,
        "level": power.level,
        "power": POWER,
        "smallest_difference": power.smallest_difference,
        "difference": power.difference,
        "seeds_for_difference": power.seeds,
    }


def _rate_record(curve: RateCurve) -> dict[str, Any]:
    return {
        "shape": curve.label,
        "recipe": curve.recipe,
        "rates": list(curve.rates),
        "losses": list(curve.losses),
        "best": curve.best,
        "is_interior": curve.is_interior,
        "estimate": curve.estimate,
    }


def _interval_record(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)
