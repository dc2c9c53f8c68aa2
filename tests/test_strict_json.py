"""No file of the project holds a number that JSON does not have."""

import ast
import json
import math
from pathlib import Path

import pytest

from mobilellm.data.manifest import write_json
from mobilellm.run_folder import write_summary
from mobilellm.strict_json import to_json

ROOT = Path(__file__).resolve().parents[1]
RECORD = {
    "losses": [math.inf, 1.5, (-math.inf, math.nan)],
    "by_rate": {0.1: {"loss": math.nan}, math.inf: 2},
    "name": "∞",
    "flag": True,
    "nothing": None,
}
EXPECTED = {
    "losses": [None, 1.5, [None, None]],
    "by_rate": {"0.1": {"loss": None}, "inf": 2},
    "name": "∞",
    "flag": True,
    "nothing": None,
}


def strictly(text):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_become_null():
    assert strictly(to_json(RECORD)) == EXPECTED
    assert strictly(to_json(RECORD, indent=None, ensure_ascii=False)) == EXPECTED
    assert to_json({"a": [1, 2.5]}) == json.dumps({"a": [1, 2.5]}, indent=2)
    assert strictly(to_json({"path": Path("a")}, default=str)) == {"path": "a"}


def test_manifests_and_summaries_are_strict(tmp_path):
    write_json(tmp_path / "manifest.json", RECORD)
    write_summary(tmp_path, RECORD)
    for name in ("manifest.json", "summary.json"):
        assert strictly((tmp_path / name).read_text(encoding="utf-8")) == EXPECTED


@pytest.mark.parametrize("part", ["mobilellm", "scripts"])
def test_every_writer_of_json_refuses_infinity(part):
    """All but those that hash what they make: their text has sorted keys and is never kept."""
    loose = []
    for path in (ROOT / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) in WRITERS):
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("allow_nan") != "False" and given.get("sort_keys") != "True":
                loose.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not loose


WRITERS = {"json.dump", "json.dumps"}
