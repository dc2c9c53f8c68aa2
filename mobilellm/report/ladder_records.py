"""A ladder as plain data, for comparison.json, and its law read back from there."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from mobilellm.report.ladder import Ladder
from mobilellm.search.ladder_runs import LadderRuns

RUN_FIELDS = tuple(field.name for field in fields(LadderRuns))


def ladder_record(ladder: Ladder | None) -> dict[str, Any]:
    """Return the entries `law`, `best_depth` and `decisions_by_size` of comparison.json.

    All are null if the runs are no ladder. Of a law that the runs do not identify, `missing` says
    why.
    """
    if ladder is None:
        return {"law": None, "best_depth": None, "decisions_by_size": None}
    return {
        "law": _law_record(ladder),
        "best_depth": [asdict(each) for each in ladder.best_depths],
        "decisions_by_size": [asdict(each) for each in ladder.decisions],
    }


def _law_record(ladder: Ladder) -> dict[str, Any]:
    law, held, cross = ladder.law, ladder.held_out, ladder.cross_validation
    if law is None:
        return {"missing": list(ladder.missing), "parameters": None}
    ranges = {name: law.runs.features((name,)) for name in ("depth", "width", "body", "tokens")}
    return {
        "missing": [],
        "form": "L0 + a depth^-alpha + b width^-beta + c tokens^-gamma",
        "parameters": {
            name: {"value": value, "low": low, "high": high}
            for name, (value, low, high) in law.parameters().items()
        },
        "range": {name: [float(v.min()), float(v.max())] for name, v in ranges.items()},
        "undetermined": list(law.undetermined),
        "is_without_floor": law.is_without_floor,
        "in_sample_error": law.in_sample_error,
        "left_out_shape_error": None if cross is None else asdict(cross),
        "shape_deviation": law.shape_deviation,
        "seed_deviation": law.seed_deviation,
        "held_out": None
        if held is None
        else {
            "body": held.body,
            "error": held.error,
            "largest_error": held.largest_error,
            "simple_error": held.simple_error,
            "predicted_depth": held.predicted_depth,
            "measured_depth": held.measured_depth,
        },
        "family": None if ladder.family is None else ladder.family.to_dict(),
        "family_missing": ladder.family_missing or None,
        "runs": {name: getattr(law.runs, name).tolist() for name in RUN_FIELDS},
    }


def runs_of_record(record: Mapping[str, Any]) -> LadderRuns:
    """Read the runs of a law from the entry `law` of comparison.json.

    Raises:
        ValueError: the entry has no runs, because there is no law; the message says why.
    """
    runs = record.get("runs")
    if runs is None:
        reasons = "; ".join(record.get("missing") or ("it was written by an earlier version",))
        raise ValueError(f"there is no law of the loss: {reasons}")
    arrays = {name: np.array(runs[name], float) for name in RUN_FIELDS}
    return LadderRuns(**(arrays | {"seeds": arrays["seeds"].astype(int)}))
