"""Reads the law of the loss of a ladder, from its runs or from comparison.json."""

import json
from pathlib import Path
from typing import Any

from mobilellm.report.comparability import choose_metric
from mobilellm.report.compare import JSON
from mobilellm.report.ladder import ladder_runs
from mobilellm.report.ladder_family import LadderFamily, ladder_family
from mobilellm.report.ladder_records import runs_of_record
from mobilellm.report.run_groups import group_runs
from mobilellm.report.rungs import find_rungs
from mobilellm.report.runs import read_runs
from mobilellm.search.ladder_runs import LadderRuns
from mobilellm.search.loss_law import LossLaw, fit_loss_law

NEEDED = "a law needs the runs of a ladder (mobilellm train -m experiment=ladder)"


def read_law(path: Path) -> tuple[LossLaw, LadderFamily]:
    """Fit the law to the runs of a ladder.

    Args:
        path: the folder of the runs; or comparison.json, or the folder that contains it.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: there are no runs, or they do not identify a law; the message says why.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a ladder's folder, or its {JSON}")
    file = path if path.is_file() else path / JSON
    runs, family = _from_json(file) if file.exists() else _from_runs(path)
    try:
        return fit_loss_law(runs), family
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {NEEDED}") from error


def _from_runs(folder: Path) -> tuple[LadderRuns, LadderFamily]:
    groups, _ = group_runs(read_runs([folder]).finished)
    rungs = find_rungs(groups)
    if not rungs or choose_metric(groups) != "val_loss":
        raise ValueError(
            f"{folder} is no ladder: its {len(groups)} configurations are not of several sizes "
            f"with several depths and token budgets each, all comparable; {NEEDED}"
        )
    runs, missing = ladder_runs(rungs)
    family, reason = ladder_family(rungs)
    if missing or family is None:
        raise ValueError(f"{folder}: there is no law: {'; '.join(missing) or reason}; {NEEDED}")
    return runs, family


def _from_json(file: Path) -> tuple[LadderRuns, LadderFamily]:
    try:
        record: Any = json.loads(file.read_text(encoding="utf-8"))
        law = record.get("law")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{file} is not a report of mobilellm compare ({error})") from error
    if law is None:
        raise ValueError(f"{file}: the runs of this report are no ladder; {NEEDED}")
    if law.get("family") is None and not law.get("missing"):
        raise ValueError(f"{file}: there is no law of one family: {law.get('family_missing')}")
    try:
        return runs_of_record(law), LadderFamily.from_dict(law["family"])
    except ValueError as error:
        raise ValueError(f"{file}: {error}; {NEEDED}") from error
